"""Policy gradients in the dream, with TF-Agents: PPO and REINFORCE.

methods.py      settings
auto_reset.py   batched dreams, each of which restarts when it ends
environment.py  the same dreams as a TF-Agents environment
agents.py       TF-Agents' agents with the networks of this package
training.py     the learner

Only `environment` and `agents` need TF-Agents, and only when their functions are called.
"""
