"""Policy gradients in the dream, with TF-Agents: PPO and REINFORCE.

methods.py      settings
auto_reset.py   dreams side by side, each of which starts again where it ends
environment.py  the same dreams as an environment of TF-Agents
agents.py       TF-Agents' agents around our networks
training.py     the learner

Only `environment` and `agents` need TF-Agents, and only when something of them is made.
"""
