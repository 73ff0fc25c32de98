"""Agents of an RSSM through the model server's loader, in a process that has only TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.export.any_world import ENVIRONMENTS, Reference, Seen
from tests.export.gate import assert_close
from wm_tf import export
from wm_tf.agent import Agent
from wm_tf.envs import env_spec
from wm_tf.models.rssm import RSSM, RSSMConfig
from wm_tf.policies.actor import Actor, TwoHotCritic
from wm_tf.policies.distributions import make_distribution
from wm_tf.policies.planner import Planner, PlannerConfig

_SMALL = {
  "deter_size": 16,
  "hidden_size": 8,
  "stoch_size": 4,
  "num_classes": 4,
  "image_filters": 4,
  "image_units": 16,
  "vector_units": (8,),
  "head_hidden_size": 8,
}


def _agents(spec, stochastic: str) -> dict[str, Agent]:
  """A controller, and a planner that starts from it, with random weights."""
  config = RSSMConfig(stochastic=stochastic, **_SMALL)
  space = spec.action_space
  world = RSSM(spec.observation, space.size, config, space.num_choices)
  distribution = make_distribution(world, "clipped_normal", 0.01)
  actor = Actor(world, (8,), distribution=distribution, normalised=True)
  critic = TwoHotCritic(world, (8,), 1.0, 0.99, normalised=True)
  generator = np.random.default_rng(0)
  for weight in (*world.trainable_variables, *actor.network.weights, *critic.network.weights):
    weight.assign(generator.normal(0.0, 0.5, weight.shape))
  planner = Planner(
    world,
    PlannerConfig(num_candidates=6, num_elites=2, horizon=3, num_iterations=2),
    proposal=actor,
    critic=critic,
  )
  return {"controller": Agent(spec, world, actor), "planner": Agent(spec, world, planner)}


@pytest.mark.parametrize(
  ("environment", "stochastic", "name"),
  [
    pytest.param("gym:Pendulum-v1", "categorical", "planner", marks=pytest.mark.slow),
    ("tests.envs.toys:DictEnv", "gaussian", "controller"),
    ("tests.envs.toys:MultiDiscreteEnv", "categorical", "planner"),
    ("tests.envs.toys:GrayEnv", "categorical", "controller"),
  ],
)
def test_through_the_servers_loader(environment, stochastic, name, tmp_path, gate):
  spec = env_spec(environment, **ENVIRONMENTS[environment])
  seen, seed = Seen(environment, steps=2), np.array([[1, 2], [3, 4]], np.int32)
  agent = _agents(spec, stochastic)[name]
  export.export_agent(agent, tmp_path / name)
  reference = Reference(agent)
  reference.begin(2)
  start = export.flatten_state(reference.state)
  reference.act(seen.agent[0], np.array([True, True]), seed + 4)  # Now the state is not all zeros.
  state = {key: x.numpy() for key, x in export.flatten_state(reference.state).items()}
  values = spec.observation.unpack(seen.native[1])
  act = dict(zip(export.input_names(spec.observation), values, strict=True))
  act |= {"seed": seed, **state}
  others = {other: {"seed": seed} for other in ("initial_state", "spec")}
  results = gate(tmp_path / name / "1", {"act": act, "serving_default": act, **others})
  assert_close(results["initial_state"], start)
  agent_action, action = reference.act(seen.agent[1], np.array([False, False]), seed)
  if spec.action_space.kind == "continuous":
    action = action.astype(np.float32)
  expected = {"action": action, "agent_action": agent_action}
  assert_close(results["act"], expected | export.flatten_state(reference.state))
