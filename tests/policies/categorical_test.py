"""Policies of categorical actions: planners, actors and linear controllers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.nonlinear_world import NonlinearWorld, best_return
from wm_tf import rng
from wm_tf.imagination import imagine_returns
from wm_tf.policies.actor import Actor
from wm_tf.policies.linear import LinearController
from wm_tf.policies.networks import LayersPolicy, Network
from wm_tf.policies.planner import Planner, PlannerConfig

_SEED = rng.make_seed(3)
_STARTS = np.linspace(-1.5, 2.5, 8, dtype=np.float32)
_CONFIG = PlannerConfig(horizon=4, num_candidates=96, num_elites=12, num_iterations=4)


def _state():
  return tf.constant(_STARTS[:, None])


def _assert_one_hot(action):
  groups = np.split(np.asarray(action), [3], axis=-1)
  assert set(np.unique(action)) <= {0.0, 1.0}
  for group in groups:
    np.testing.assert_array_equal(group.sum(-1), 1.0)


@pytest.mark.parametrize("optimiser", ["cem", "mppi", "random_shooting"])
def test_a_planner_finds_nearly_the_best_of_all_plans(optimiser):
  world = NonlinearWorld(categorical=True)
  planner = Planner(world, dataclasses.replace(_CONFIG, optimiser=optimiser))
  plan, promised = tf.function(planner.plan)(_state(), planner.initial_memory(8), _SEED)
  assert plan.shape == (8, 4, 5)
  _assert_one_hot(plan)
  best = best_return(world, _STARTS, 4)
  # What it promises is what the plan brings, up to 1% of the best.
  earned = imagine_returns(
    world, lambda t, state, memory: (plan[:, t], memory), _state(), 4, _SEED
  ).imagined_return
  np.testing.assert_allclose(promised, earned, rtol=1e-5)
  np.testing.assert_allclose(promised, best, rtol=0.01 if optimiser != "random_shooting" else 0.05)
  assert np.all(promised <= best + 1e-3)


@pytest.mark.parametrize("answer", ["best", "mean"])
@pytest.mark.parametrize("optimiser", ["cem", "mppi"])
def test_a_planner_acts_with_the_first_action_of_its_plan(optimiser, answer):
  planner = Planner(
    NonlinearWorld(categorical=True),
    dataclasses.replace(_CONFIG, optimiser=optimiser, answer=answer),
  )
  seeds = tf.stack([tf.range(8), tf.zeros([8], tf.int32)], axis=1)
  action, memory = planner.act(_state(), planner.initial_memory(8), seeds)
  _assert_one_hot(memory)
  np.testing.assert_array_equal(action, memory[:, 0])
  # The last plan, shifted, is a candidate of the next decision.
  again, _ = planner.plan(_state(), memory, seeds)
  _assert_one_hot(again)
  alone, _ = planner.plan(_state()[3:4], memory[3:4], seeds[3:4])
  np.testing.assert_array_equal(alone[0], again[3])


def test_a_plan_is_never_worse_than_the_proposal():
  world = NonlinearWorld(categorical=True)
  proposal = LinearController(world)  # Left at slow speed: zeros are ties.
  config = dataclasses.replace(_CONFIG, num_candidates=3, num_elites=2, num_iterations=1)
  planner = Planner(world, config, proposal)
  _, promised = planner.plan(_state(), planner.initial_memory(8), _SEED)
  proposed = imagine_returns(
    world, lambda t, s, m: proposal.act(s, m), _state(), 4, _SEED
  ).imagined_return
  assert np.all(promised >= proposed - 1e-4)


def test_a_search_without_categorical_form_is_refused_by_name():
  with pytest.raises(ValueError, match=r"planner\.optimiser=cma_es: Unknown search"):
    PlannerConfig(optimiser="cma_es")


def test_an_actor_samples_only_to_explore():
  world = NonlinearWorld(categorical=True)
  actor = Actor(world, (8,))
  actor.network.weights[-1].assign([0.0, 1.0, 2.0, 0.5, 0.0])
  state = tf.zeros([4000, 1])
  greedy, memory = actor.act(state, ())
  np.testing.assert_array_equal(greedy, np.tile([[0.0, 0, 1, 1, 0]], [4000, 1]))
  assert memory == ()
  sampled, _ = actor.act(state, (), _SEED, explore=True)
  _assert_one_hot(sampled)
  logits = actor.network(world.features(state))[0]
  expected = np.concatenate([tf.nn.softmax(logits[:3]), tf.nn.softmax(logits[3:])])
  np.testing.assert_allclose(np.mean(sampled, axis=0), expected, atol=0.03)
  seeds = tf.stack([tf.range(5), tf.zeros([5], tf.int32)], axis=1)
  together, _ = actor.act(state[:5], (), seeds, explore=True)
  alone, _ = actor.act(state[:1], (), seeds[2:3], explore=True)
  np.testing.assert_array_equal(together[2:3], alone)


@pytest.mark.parametrize("kind", ["linear", "actor"])
def test_a_controller_as_layers_acts_the_same(kind):
  world = NonlinearWorld(categorical=True)
  policy = LinearController(world) if kind == "linear" else Actor(world, (6,))
  generator = np.random.default_rng(0)
  if kind == "linear":  # The direction follows the sign of x, the speed grows with x^2.
    policy.parameters.assign([-1.0, 0, 1, 0, 0, 0, 0, 0, -1, 1, 0, 0, 0, 1, 0])
  else:
    for weight in policy.network.weights:
      weight.assign(3.0 * generator.normal(size=weight.shape))
  expected, _ = policy.act(_state(), ())
  _assert_one_hot(expected)
  assert len(np.unique(expected, axis=0)) > 1
  layers = LayersPolicy(world, Network.of(policy).fold())
  np.testing.assert_array_equal(layers.act(_state(), ())[0], expected)
