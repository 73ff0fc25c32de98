import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import (
  AdditiveState,
  AdditiveWorld,
  assert_same,
  best_return,
  rows_of,
  small_mdn_rnn,
  state_at,
)
from wm_tf import rng
from wm_tf.evaluation import evaluate_in_model
from wm_tf.imagination import imagine_returns, policy_action_fn
from wm_tf.policies.planner import ANSWERS, Planner, PlannerConfig

_SEED = rng.make_seed(3)
_ROW_SEEDS = tf.constant([[1, 2], [3, 4]])
_HORIZON = 5
_SMALL = PlannerConfig(horizon=_HORIZON, num_candidates=16, num_elites=4, num_iterations=2)


def _play(world, state, plan, seed=_SEED, discount=1.0):
  """The return of plans `[B, H, A]` in the model."""

  def action_fn(t, state, memory):
    return (plan[:, t], memory)

  return imagine_returns(
    world, action_fn, state, plan.shape[1], seed, discount=discount
  ).imagined_return.numpy()


class Greedy:
  """Goes to the goal as fast as it may: the best there is in an `AdditiveWorld`."""

  def __init__(self, goal=2.5):
    self.goal = goal

  def initial_memory(self, batch_size):
    return ()

  def act(self, state, memory, seed=None, explore=False):
    return tf.clip_by_value(self.goal - state.z, -1.0, 1.0), memory


# The best returns from the two starts are -3.5 and -6, and doing nothing brings -51 and -65: how
# far below the best the plan may lie, on average over 20 seeds (about 1.5 times what was found).
@pytest.mark.parametrize(
  ("options", "error"),
  [
    ({"optimiser": "cem", "num_candidates": 100, "num_iterations": 16}, 0.15),
    ({"optimiser": "cem"}, 3.2),
    ({"optimiser": "mppi", "num_candidates": 100, "num_iterations": 20}, 0.7),
    ({"optimiser": "mppi"}, 2.3),
    ({"optimiser": "random_shooting", "num_candidates": 2000}, 3.2),
  ],
  ids=lambda value: value["optimiser"] if isinstance(value, dict) else "",
)
def test_reaches_the_optimum(options, error):
  world = AdditiveWorld()
  config = PlannerConfig(horizon=_HORIZON, initial_scale=0.6, **options)
  planner = Planner(world, config)
  starts = np.repeat([[0.0, 0.5], [4.5, 5.5]], 20, axis=0)
  seeds = tf.stack([tf.range(40), tf.zeros([40], tf.int32)], axis=1)
  state = state_at(starts)
  plan, expected = tf.function(planner.plan)(state, planner.initial_memory(40), seeds)
  assert plan.shape == (40, _HORIZON, 2)
  assert np.abs(plan).max() <= 1.0
  regret = (best_return(world, starts, _HORIZON) - expected.numpy()).reshape(2, 20).mean(1)
  assert np.all(regret < error), regret
  assert np.all(regret > -1e-4)  # Nothing is better than the best.
  np.testing.assert_allclose(_play(world, state, plan), expected, rtol=1e-5)
  # Only the first action is done, and its direction is clear.
  assert np.all(np.sign(plan[:, 0]) == np.sign(2.5 - starts))


@pytest.mark.slow
def test_the_mean_owes_less_to_luck_than_the_best():
  """Where it is noise that tells plans apart, under other noise than they were chosen by."""
  world = AdditiveWorld(noise_scale=1.5)
  starts = np.repeat([[0.0, 0.5], [4.5, 5.5]], 20, axis=0)
  seeds = tf.stack([tf.range(40), tf.zeros([40], tf.int32)], axis=1)
  state, returns = state_at(starts), {}
  for answer in ANSWERS:
    config = dataclasses.replace(_SMALL, initial_scale=0.15, answer=answer)
    planner = Planner(world, config, Greedy())
    plan, _ = tf.function(planner.plan)(state, planner.initial_memory(40), seeds)
    fresh = [_play(world, state, plan, seeds + tf.constant([1000, i])) for i in range(32)]
    returns[answer] = np.mean(fresh)
  assert returns["mean"] > returns["best"] + 0.5, returns


@pytest.mark.parametrize("optimiser", ["cem", "mppi"])
def test_more_iterations_are_no_worse(optimiser):
  state = state_at(np.linspace(-3, 6, 32).reshape(16, 2))
  seeds = tf.stack([tf.range(16), tf.zeros([16], tf.int32)], axis=1)
  returns = []
  for num_iterations in (1, 3, 9):
    config = dataclasses.replace(_SMALL, optimiser=optimiser, num_iterations=num_iterations)
    planner = Planner(AdditiveWorld(), config)
    returns.append(tf.function(planner.plan)(state, planner.initial_memory(16), seeds)[1].numpy())
  # A search goes on from where a shorter one ends, and keeps its best: in every row.
  assert np.all(np.diff(returns, axis=0) >= -1e-5)
  assert np.all(np.diff(np.mean(returns, axis=1)) > 0.5)


def test_random_shooting_is_one_iteration_of_cem():
  world, state = AdditiveWorld(), state_at([[0.0, 0.5]])
  plans = []
  for options in (
    {"optimiser": "cem", "num_iterations": 1},
    {"optimiser": "random_shooting", "num_iterations": 7},
  ):
    planner = Planner(world, dataclasses.replace(_SMALL, **options))
    plans.append(planner.plan(state, planner.initial_memory(1), _SEED))
  assert_same(*plans, rtol=0, atol=0)


_KINDS = [
  {"optimiser": "cem"},
  {"optimiser": "mppi"},
  {"optimiser": "random_shooting", "num_particles": 3},
]


@pytest.mark.parametrize("options", _KINDS, ids=str)
@pytest.mark.parametrize("proposal", [None, Greedy(goal=1.0)], ids=["alone", "proposal"])
def test_two_environments_equal_one_and_one(options, proposal):
  """Rows differ in state, plan and seed; the world is random."""
  planner = Planner(
    AdditiveWorld(noise_scale=0.5, discount=0.95), dataclasses.replace(_SMALL, **options), proposal
  )
  state, memory = state_at([[0.0, 0.5], [4.0, 1.0]]), rng.uniform([2, _HORIZON, 2], _SEED)
  both = planner.plan(state, memory, _ROW_SEEDS)
  assert_same(tf.function(planner.plan)(state, memory, _ROW_SEEDS), both)
  for row in (0, 1):
    alone = planner.plan(rows_of(state, [row]), memory[row : row + 1], _ROW_SEEDS[row : row + 1])
    assert_same(alone, rows_of(both, [row]))


def test_act_does_the_first_action_and_keeps_the_plan():
  planner = Planner(AdditiveWorld(), _SMALL)
  state, memory = state_at([[0.0, 0.5], [4.0, 1.0]]), planner.initial_memory(2)
  assert memory.shape == (2, _HORIZON, 2) and not np.any(memory)
  plan, _ = planner.plan(state, memory, _ROW_SEEDS)
  action, kept = planner.act(state, memory, _ROW_SEEDS)
  np.testing.assert_array_equal(kept, plan)
  np.testing.assert_array_equal(action, plan[:, 0])
  assert_same(planner.act(state, memory, _ROW_SEEDS), (action, kept), rtol=0, atol=0)
  assert np.any(planner.act(state, memory, _ROW_SEEDS + 1)[1] != kept)


def test_warm_start_is_the_last_plan_one_step_on():
  """Candidates that hardly stray from it show where the search begins."""
  config = dataclasses.replace(_SMALL, optimiser="random_shooting", initial_scale=1e-6)
  planner = Planner(AdditiveWorld(), config)
  memory = rng.uniform([2, _HORIZON, 2], _SEED) * 2 - 1
  plan, _ = planner.plan(state_at([[0.0, 0.5], [4.0, 1.0]]), memory, _ROW_SEEDS)
  expected = np.concatenate([memory[:, 1:], memory[:, -1:]], axis=1)
  np.testing.assert_allclose(plan, expected, atol=1e-4)


@pytest.mark.parametrize("optimiser", ["cem", "mppi", "random_shooting"])
def test_the_last_plan_is_never_lost(optimiser):
  """A good one survives, whatever the candidates."""
  world = AdditiveWorld()
  config = dataclasses.replace(_SMALL, optimiser=optimiser, initial_scale=3.0)
  planner = Planner(world, config)
  start = np.array([[0.0, 0.5], [4.0, 1.0]])
  best = [Greedy().act(state_at(start), ())[0]]
  for _ in range(_HORIZON - 1):
    best.append(Greedy().act(state_at(start + sum(best)), ())[0])
  # As it was one decision ago; the last action, repeated, is to stay at the goal.
  memory = tf.stack([tf.zeros([2, 2]), *best[:-1]], axis=1)
  for seed in range(5):
    _, found = planner.plan(state_at(start), memory, rng.make_seed(seed))
    np.testing.assert_allclose(found, best_return(world, start, _HORIZON), atol=1e-4)


@pytest.mark.parametrize("optimiser", ["cem", "mppi", "random_shooting"])
@pytest.mark.parametrize("noise_scale", [0.0, 0.7])
def test_the_plan_is_never_worse_than_the_proposal(optimiser, noise_scale):
  """In the model, along the noise that was planned with; though few candidates are any good."""
  world = AdditiveWorld(noise_scale=noise_scale, discount=0.9)
  config = dataclasses.replace(_SMALL, optimiser=optimiser, initial_scale=3.0, temperature=0.8)
  proposal = Greedy()
  planner, without = Planner(world, config, proposal), Planner(world, config)
  state, memory = state_at([[0.0, 0.5], [4.0, 1.0]]), tf.zeros([2, _HORIZON, 2])
  won = 0
  for seed in range(8):
    seed = rng.make_seed(seed)
    dream_seed, _ = rng.split(seed, 2)
    proposed = imagine_returns(
      world,
      policy_action_fn(proposal, seed),
      state,
      _HORIZON,
      dream_seed,
      temperature=config.temperature,
    ).imagined_return
    _, found = planner.plan(state, memory, seed)
    assert np.all(found >= proposed - 1e-4)
    won += np.all(found > without.plan(state, memory, seed)[1] + 0.1)
  assert won >= 6  # So it did take the proposal.


@pytest.mark.parametrize("rows", [True, False], ids=["row seeds", "one seed"])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_the_fitness_is_the_mean_over_particles(num_particles, rows):
  world = AdditiveWorld(noise_scale=0.7, discount=0.9)
  config = dataclasses.replace(_SMALL, num_particles=num_particles, discount=0.8)
  planner = Planner(world, config)
  state, seed = state_at([[0.0, 0.5], [4.0, 1.0]]), _ROW_SEEDS if rows else _SEED
  plan, fitness = planner.plan(state, planner.initial_memory(2), seed)
  dream_seed, _ = rng.split(seed, 2)
  if num_particles == 1:
    seeds = dream_seed
  elif rows:
    seeds = tf.concat([rng.fold_in(dream_seed, p) for p in range(num_particles)], axis=0)
  else:
    seeds = dream_seed

  def many(x):
    return tf.tile(x, [num_particles] + [1] * (x.shape.rank - 1))

  returns = _play(world, AdditiveState(*map(many, state)), many(plan), seeds, discount=0.8)
  returns = returns.reshape(num_particles, 2)
  np.testing.assert_allclose(fitness, returns.mean(0), rtol=1e-4)
  if num_particles > 1:
    assert returns.std(0).min() > 0.1  # Particles meet different luck.


def test_particles_hedge():
  """One dream invites a plan for its own luck; the mean of many is closer to the truth."""
  world, state = AdditiveWorld(noise_scale=1.0), state_at(np.full((40, 2), 2.5))
  seeds = tf.stack([tf.range(40), tf.zeros([40], tf.int32)], axis=1)
  optimism = []
  for num_particles in (1, 16):
    config = dataclasses.replace(_SMALL, num_particles=num_particles, num_iterations=4)
    planner = Planner(world, config)
    plan, promised = tf.function(planner.plan)(state, planner.initial_memory(40), seeds)
    # From the goal, noise alone costs 2 * (1 + 2 + ... + 5), and moving adds to that.
    true = -30.0 - np.square(np.cumsum(plan, axis=1)).sum((1, 2))
    optimism.append((promised - true).numpy().mean())
  assert optimism[0] > 10 > optimism[1] > 0


@pytest.mark.parametrize("optimiser", ["cem", "mppi", "random_shooting"])
def test_a_plan_that_breaks_the_model_is_never_chosen(optimiser):
  """Beyond 1.2, on the way to the goal, returns are NaN."""

  class Broken(AdditiveWorld):
    def imagine_with_noise(self, state, action, noise, temperature=1.0):
      prediction = super().imagine_with_noise(state, action, noise, temperature)
      beyond = tf.reduce_any(prediction.state.z > 1.2, axis=-1)
      return prediction._replace(reward=tf.where(beyond, np.nan, prediction.reward))

  config = dataclasses.replace(_SMALL, optimiser=optimiser, num_candidates=64, num_iterations=6)
  planner, start = Planner(Broken(), config), np.array([[0.0, 0.5], [-1.0, 1.0]])
  plan, found = planner.plan(state_at(start), planner.initial_memory(2), _ROW_SEEDS)
  assert np.isfinite(found).all()
  assert np.all(start[:, None] + np.cumsum(plan, axis=1) <= 1.2001)
  still = -_HORIZON * np.square(start - 2.5).sum(-1)
  assert np.all(found > still + 1.0)


def test_drives_in_closed_loop():
  """Twelve decisions in a world with noise: nearly as good as the best there is."""
  world = AdditiveWorld(noise_scale=0.1)
  config = dataclasses.replace(_SMALL, num_candidates=64, num_elites=8, num_iterations=3)
  starts, seeds = state_at([[0.0, 0.5]]), range(8)

  def play(policy):
    return evaluate_in_model(world, policy, starts, 12, seeds).episode_return.mean()

  planned, greedy, still = play(Planner(world, config)), play(Greedy()), -12 * (2.5**2 + 2.0**2)
  assert greedy - planned < 0.03 * (greedy - still)


def test_saved_model(tmp_path):
  """As in serving: any batch size, a seed per row, and memory that travels."""
  planner = Planner(
    AdditiveWorld(noise_scale=0.5), dataclasses.replace(_SMALL, num_particles=2), Greedy(1.0)
  )

  class Served(tf.Module):
    def __init__(self):
      super().__init__()
      self.planner, self.variables_ = planner, planner._world_model.weights

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, 2]),
        tf.TensorSpec([None, 1]),
        tf.TensorSpec([None, _HORIZON, 2]),
        tf.TensorSpec([None, 2], tf.int32),
      ]
    )
    def act(self, z, distance, memory, seed):
      action, memory = planner.act(AdditiveState(z, distance), memory, seed)
      return {"action": action, "memory": memory}

  tf.saved_model.save(Served(), str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  state, memory = state_at([[0.0, 0.5], [4.0, 1.0]]), rng.uniform([2, _HORIZON, 2], _SEED)
  for rows in ([0, 1], [1]):
    inputs = rows_of((state, memory, _ROW_SEEDS), rows)
    found = loaded.act(*inputs[0], *inputs[1:])
    assert_same((found["action"], found["memory"]), planner.act(*inputs))


@pytest.mark.parametrize("ensemble_size", [1, 2])
def test_plans_with_an_mdn_rnn(ensemble_size):
  """The plan's promise is what the model says of it; nothing but the seam is used."""
  model = small_mdn_rnn(ensemble_size=ensemble_size)
  planner = Planner(model, dataclasses.replace(_SMALL, num_iterations=4))
  state = model.initial_state(2)
  plan, fitness = tf.function(planner.plan)(state, planner.initial_memory(2), _ROW_SEEDS)
  dream_seed, _ = rng.split(_ROW_SEEDS, 2)
  np.testing.assert_allclose(_play(model, state, plan, dream_seed), fitness, rtol=1e-4)
  still = _play(model, state, tf.zeros_like(plan), dream_seed)
  assert np.all(fitness > still)


@pytest.mark.parametrize("options", [{}, {"head_hidden_size": 0}, {"ensemble_size": 2}])
def test_a_fixed_planner_plans_the_same(options):
  model = small_mdn_rnn(**options)
  planner, fixed = (Planner(model, _SMALL, fixed=fixed) for fixed in (False, True))
  inputs = model.initial_state(2), planner.initial_memory(2), _ROW_SEEDS
  assert_same(tf.function(fixed.plan)(*inputs), planner.plan(*inputs))


def test_disagreement_costs_what_the_penalty_says():
  """One step: minus (distance - |a|)^2 - 2 p |a|, a soft threshold in each dimension."""
  world, penalty = AdditiveWorld(goal=0.5), 0.4
  config = dataclasses.replace(
    _SMALL,
    horizon=1,
    num_candidates=100,
    num_elites=10,
    num_iterations=12,
    disagreement_penalty=2 * penalty,
  )
  state = state_at([[0.0, 0.3], [0.5, -0.4]])
  planner = Planner(world, config)
  plan, value = planner.plan(state, planner.initial_memory(2), _SEED)
  distance = 0.5 - state.z.numpy()
  best = np.maximum(np.abs(distance) - penalty, 0.0)
  np.testing.assert_allclose(plan[:, 0], best, atol=0.03)
  expected = -(np.square(np.abs(distance) - best) + 2 * penalty * best).sum(-1)
  np.testing.assert_allclose(value, expected, atol=0.02)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"optimiser": "sgd"}, "planner.optimiser=sgd: Unknown search 'sgd'; known are: cem, mppi"),
    ({"horizon": 0}, "planner.horizon must be positive, got 0"),
    ({"num_iterations": 0}, "planner.num_iterations must be positive"),
    ({"num_particles": 0}, "planner.num_particles must be positive"),
  ],
)
def test_bad_configuration_is_named(options, message):
  with pytest.raises(ValueError, match=message):
    PlannerConfig(**options)


@pytest.mark.parametrize(("num", "proposal"), [(1, None), (2, Greedy())])
def test_a_search_that_would_draw_nothing_is_an_error(num, proposal):
  config = PlannerConfig(optimiser="mppi", num_candidates=num)
  with pytest.raises(ValueError, match=f"num_candidates must be above {num}, .* got {num}"):
    Planner(AdditiveWorld(), config, proposal)
  Planner(AdditiveWorld(), dataclasses.replace(config, num_candidates=num + 1), proposal)
