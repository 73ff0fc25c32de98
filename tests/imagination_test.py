import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import (
  AdditiveState,
  AdditiveWorld,
  Always,
  assert_same,
  embedded_batch,
  make_batch,
  random_frames,
  rows_of,
  small_mdn_rnn,
  state_at,
)
from wm_tf import rng
from wm_tf.imagination import (
  Draw,
  draw_states,
  imagine,
  imagine_returns,
  lambda_returns,
  observe_sequence,
  policy_action_fn,
  recently_rewarded,
  repeat_rows,
  sample_states,
)

_SEED = rng.make_seed(3)
_ROW_SEEDS = tf.constant([[1, 2], [3, 4], [5, 6]])


def _towards(goal, gain=0.3):
  """Chooses actions from the state, the step and a memory, so that an error in any shows."""

  def action_fn(t, state, memory):
    action = gain * (goal - state.z) + 0.01 * tf.cast(t, tf.float32)
    return action + 0.1 * memory[:, tf.newaxis], memory + 1.0

  return action_fn


def _loop(world, action_fn, state, horizon, seed, memory, temperature, discount=1.0):
  """The plain loop that `imagine_returns` and `imagine` must equal."""
  num_rows = state[0].shape[0]
  noise = world.draw_noise(num_rows, horizon, seed)
  total = disagreement = np.zeros(num_rows)
  alive, steps, states = np.ones(num_rows), [], []
  for t in range(horizon):
    features = world.features(state)
    action, memory = action_fn(tf.constant(t), state, memory)
    step = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
    prediction = world.imagine_with_noise(state, action, step, temperature)
    total = total + alive * prediction.reward.numpy()
    disagreement = disagreement + alive * prediction.disagreement.numpy()
    alive = alive * prediction.discount.numpy() * discount
    steps.append((features, action, *prediction[1:]))
    state = prediction.state
    states.append(state)
  return (total, disagreement, alive, state), steps, states


@pytest.mark.parametrize("seed", [_SEED, _ROW_SEEDS], ids=["one", "rows"])
@pytest.mark.parametrize("temperature", [0.7, [0.5, 1.0, 2.0]])
def test_returns_equal_a_plain_loop(seed, temperature):
  world = AdditiveWorld(noise_scale=0.3, discount=0.9)
  state, memory = state_at([[0, 1], [2, -1], [0.5, 0.5]]), tf.constant([0.0, 1.0, 2.0])
  temperature = tf.constant(temperature)
  arguments = world, _towards(2.5), state, 6, seed
  expected, *_ = _loop(*arguments, memory, temperature, 0.8)

  def run():
    return imagine_returns(*arguments, memory=memory, temperature=temperature, discount=0.8)

  for returns in (run(), tf.function(run)()):
    assert_same(tuple(returns), expected, rtol=1e-4)


def test_imagine_keeps_every_step():
  world = AdditiveWorld(noise_scale=0.3, discount=0.9)
  state, memory = state_at([[0, 1], [2, -1]]), tf.constant([0.0, 1.0])
  arguments = world, _towards(2.5), state, 5, _SEED
  _, steps, states = _loop(*arguments, memory, 1.2)
  imagined, reached = imagine(*arguments, memory=memory, temperature=1.2)
  for t, step in enumerate(steps):
    assert_same(tuple(x[:, t] for x in imagined), step)
    assert_same(AdditiveState(*(x[:, t] for x in reached)), states[t])
  # Features are those before the step, states those after it.
  np.testing.assert_allclose(imagined.features[:, 1:, :2], reached.z[:, :-1])
  assert imagined.features.shape == (2, 5, 3) and imagined.reward.shape == (2, 5)

  returns = imagine_returns(*arguments, memory=memory, temperature=1.2)
  weights = np.cumprod(np.full(5, 0.9)) / 0.9
  np.testing.assert_allclose(
    returns.imagined_return, (imagined.reward * weights).numpy().sum(1), rtol=1e-5
  )


def test_returns_by_hand():
  """From 0 in steps of 1 to a goal at 2.5, in two dimensions; half of them die at each step."""
  world = AdditiveWorld(discount=0.5)
  world.usual_disagreement = 0.25

  def action_fn(t, state, memory):
    return (tf.ones([1, 2]), memory)

  returns = imagine_returns(world, action_fn, state_at([[0, 0]]), 3, _SEED)
  np.testing.assert_allclose(
    returns.imagined_return, [-2 * (1.5**2 + 0.5 * 0.5**2 + 0.25 * 0.5**2)]
  )
  np.testing.assert_allclose(returns.unfamiliarity, [(2 - 0.25) * (1 + 0.5 + 0.25)])
  np.testing.assert_allclose(returns.alive, [0.125])
  np.testing.assert_allclose(returns.state.z, [[3.0, 3.0]])


def test_no_steps_bring_nothing():
  state = state_at([[0, 0]])
  returns = imagine_returns(AdditiveWorld(), _towards(1.0), state, 0, _SEED, memory=tf.zeros([1]))
  assert_same(tuple(returns), (np.zeros(1), np.zeros(1), np.ones(1), state))


def test_the_horizon_may_be_a_tensor():
  world, state, memory = AdditiveWorld(noise_scale=0.3), state_at([[0, 0]]), tf.zeros([1])
  run = tf.function(
    lambda horizon: imagine_returns(world, _towards(1.0), state, horizon, _SEED, memory=memory)
  )
  assert_same(run(tf.constant(4)), run(4))


def test_copies_share_their_noise():
  world, state = AdditiveWorld(noise_scale=1.0), state_at([[0, 1], [2, -1]])
  copies = repeat_rows(state, 3)
  for copy in range(3):
    assert_same(rows_of(copies, [2 * copy, 2 * copy + 1]), state)
  # Row n * B + b is copy n of row b; the third copy does something else.
  offset = np.repeat([[0.0], [0.0], [0.0], [0.0], [1.0], [1.0]], 2, axis=1).astype(np.float32)

  def action_fn(t, state, memory):
    return (offset + 0.5, memory)

  for seed in (_SEED, _ROW_SEEDS[:2]):
    returns = imagine_returns(world, action_fn, copies, 4, seed, num_copies=3)
    one, two, three = (rows_of(tuple(returns), [2 * n, 2 * n + 1]) for n in range(3))
    assert_same(one, two, rtol=0, atol=0)
    # Noise adds to the position: the difference is what the actions make of it.
    np.testing.assert_allclose(three[3].z - one[3].z, np.full((2, 2), 4.0), atol=1e-5)
    assert np.abs(np.diff(one[3].z - state.z, axis=0)).min() > 1e-3  # Rows do not share it.
    alone = imagine_returns(
      world, lambda t, state, memory: (tf.fill([2, 2], 0.5), memory), state, 4, seed
    )
    assert_same(tuple(alone), one)


def test_a_row_with_its_own_seed_depends_on_nothing_else():
  world, state = AdditiveWorld(noise_scale=1.0), state_at([[0, 1], [2, -1], [0.5, 0.5]])
  memory = tf.constant([0.0, 1.0, 2.0])
  together = imagine_returns(world, _towards(1.0), state, 5, _ROW_SEEDS, memory=memory)
  for row in range(3):
    rows = [row]
    alone = imagine_returns(
      world,
      _towards(1.0),
      rows_of(state, rows),
      5,
      _ROW_SEEDS[row : row + 1],
      memory=memory[row : row + 1],
    )
    assert_same(tuple(alone), rows_of(tuple(together), rows))


def test_policy_in_a_dream():
  """It is asked at each step with its own memory and a seed of that step."""
  seeds = []

  class Watched(Always):
    def act(self, state, memory, seed, explore=False):
      seeds.append(tuple(seed.numpy()))
      return super().act(state, memory, seed, explore)

  policy = Watched([1.0, 0.0])
  imagined, _ = imagine(
    AdditiveWorld(),
    policy_action_fn(policy, _SEED),
    state_at([[0, 0]]),
    4,
    _SEED,
    memory=policy.initial_memory(1),
  )
  np.testing.assert_array_equal(imagined.action, np.tile([1.0, 0.0], (1, 4, 1)))
  assert len(set(seeds)) == 4


@pytest.mark.parametrize("world", [AdditiveWorld(), small_mdn_rnn()], ids=["additive", "mdn_rnn"])
def test_observe_sequence_equals_observing_step_by_step(world):
  batch = make_batch(random_frames(2, 5))
  states = observe_sequence(world, batch, _SEED)
  compiled = tf.function(lambda batch: observe_sequence(world, batch, _SEED))(batch)
  assert_same(compiled, states)
  state = world.initial_state(2)
  for t in range(5):
    inputs = batch.prev_action[:, t], batch.observation[:, t], batch.is_first[:, t]
    state = world.observe(state, *inputs, _SEED)
    assert_same(tf.nest.map_structure(lambda x, t=t: x[:, t], states), state)


def test_observing_has_a_seed_for_each_step():
  seeds = []

  class Watched(AdditiveWorld):
    def observe(self, state, prev_action, observation, is_first, seed):
      seeds.append(tuple(seed.numpy()))
      return super().observe(state, prev_action, observation, is_first, seed)

  observe_sequence(Watched(), embedded_batch(np.zeros((1, 4, 4), np.float32)), _SEED)
  assert len(seeds) == len(set(seeds)) == 4


def _numbered(lengths, first=0):
  """Cached posteriors whose z is the number of the frame, over all rows; padding is negative."""
  num_steps = max(lengths)
  z = np.full((len(lengths), num_steps, 4), -1.0, np.float32)
  for row, length in enumerate(lengths):
    z[row, :length] = np.arange(first, first + length)[:, None]
    first += length
  batch = embedded_batch(z, lengths=lengths)
  return batch._replace(discount=tf.ones_like(batch.discount))


def test_sample_states_draws_uniformly():
  """400 of some 2900 frames, in episodes of many lengths; within 5 standard errors."""
  generator = np.random.default_rng(0)
  lengths = generator.integers(1, 80, (12, 5))
  lengths[:, 0] = 80  # One shape, one trace.
  batches, first = [], 0
  for row in lengths:
    batches.append(_numbered(row, first))
    first += row.sum()
  number = sample_states(AdditiveWorld(), batches, 400, seed=0).z[:, 0].numpy()
  assert len(set(number)) == 400
  share = (number[:, None] < first * np.arange(1, 10) / 10).mean(0)
  expected = np.arange(1, 10) / 10
  assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 400))
  # The order too is random: the first of them may be any.
  correlation = np.corrcoef(number, np.arange(400))[0, 1]
  assert abs(correlation) < 5 / np.sqrt(400)


def test_sample_states():
  batches = [_numbered([7, 3]), _numbered([1, 9], first=10)]
  world = AdditiveWorld()
  states = sample_states(world, batches, 12, seed=1)
  assert states.z.shape == (12, 2) and states.distance.shape == (12, 1)
  assert_same(sample_states(world, batches, 12, seed=1), states, rtol=0, atol=0)
  assert not np.array_equal(sample_states(world, batches, 12, seed=2).z, states.z)

  everything = sample_states(world, batches, 100, seed=1)
  number = everything.z[:, 0].numpy().astype(int)
  assert sorted(number) == list(range(20))
  # Each is burnt in on what its own episode did before.
  expected = np.concatenate(
    [np.abs(batch.prev_action.numpy()).sum(-1).cumsum(1)[batch.mask.numpy()] for batch in batches]
  )
  np.testing.assert_allclose(everything.distance[:, 0], expected[number], rtol=1e-5)


def test_sample_states_respects_select_fn():
  batches = [_numbered([7, 3]), _numbered([1, 9], first=10)]

  # Padding is never drawn, even if selected.
  def select(batch):
    return batch.observation.value.numpy()[..., 0] % 5 < 2

  states = sample_states(AdditiveWorld(), batches, 100, 1, lambda batch: ~select(batch))
  assert sorted(states.z[:, 0].numpy()) == [i for i in range(20) if i % 5 >= 2]

  def only_one(batch):
    return batch.observation.value.numpy()[..., 0] == 12

  assert sample_states(AdditiveWorld(), batches, 5, 1, only_one).z.shape == (1, 2)


def test_terminal_states_are_never_drawn():
  batch = _numbered([7, 3, 4])
  terminal = np.zeros(batch.mask.shape, bool)
  terminal[0, 6] = terminal[1, 2] = True
  ended = batch._replace(discount=tf.constant(~terminal, tf.float32))
  numbers = sample_states(AdditiveWorld(), [ended], 100, 1).z[:, 0].numpy()
  assert sorted(numbers) == [i for i in range(14) if i not in (6, 9)]
  # The others are drawn as they are where nothing is terminal.
  before = sample_states(AdditiveWorld(), [batch], 100, 1).z[:, 0].numpy()
  np.testing.assert_array_equal(numbers, before[~np.isin(before, (6, 9))])

  def select_terminal(batch):
    return terminal

  with pytest.raises(ValueError, match="allows are terminal"):
    sample_states(AdditiveWorld(), [ended], 5, 1, select_terminal)


def test_several_draws_in_one_pass_are_those_of_as_many():
  batches = [_numbered([7, 3]), _numbered([1, 9], first=10)]

  def select(batch):
    return batch.observation.value.numpy()[..., 0] % 5 < 2

  draws = [Draw(12, 1), Draw(4, 2, select), Draw(100, 1)]
  several = draw_states(AdditiveWorld(), iter(batches), draws)
  for draw, states in zip(draws, several, strict=True):
    assert_same(states, sample_states(AdditiveWorld(), batches, *draw), rtol=0, atol=0)


@pytest.mark.parametrize("batches", [[], [_numbered([3, 2])]], ids=["no data", "none selected"])
def test_nothing_to_draw_from_is_an_error(batches):
  def nothing(batch):
    return np.zeros(batch.mask.shape, bool)

  with pytest.raises(ValueError, match="No real state may be drawn"):
    sample_states(AdditiveWorld(), batches, 5, 1, nothing)


def test_recently_rewarded():
  batch = embedded_batch(np.zeros((4, 8, 4), np.float32))
  reward = np.array(
    [
      [0, 0, 0, 0, 0, 0, 0, 0],
      [0, 0, 0, 0, 1, 0, 0, 0],
      [0, 0.2, 0, -1, 0, 0.3, 0.2, 0],
      [0, 0, 0, 0, 0, 0, 0, 9],
    ]
  )
  is_first = batch.is_first.numpy()
  is_first[3, 0] = False  # A sequence from the middle of an episode
  batch = batch._replace(reward=reward, is_first=is_first)
  for window, threshold, expected in [
    (3, 0.25, ["11100000", "11101110", "11100111", "00000001"]),
    (3, 0.0, ["11100000", "11101110", "11110111", "00000001"]),
    (1, 0.25, ["10000000", "10001000", "10000100", "00000001"]),
    (8, 0.25, ["11111111", "11111111", "11111111", "00000001"]),
    (50, 0.25, ["11111111", "11111111", "11111111", "00000001"]),
  ]:
    selected = recently_rewarded(window, threshold)(batch)
    assert selected.dtype == bool
    assert ["".join(map(str, row)) for row in selected.astype(int)] == expected
  assert reward[1, 0] == 0  # It changes nothing of what it is given.


# Two rows of three steps; the second row ends after its first step.
_REWARD = [[1.0, 2.0, 3.0], [1.0, 5.0, 7.0]]
_DISCOUNT = [[0.5, 0.5, 0.5], [0.0, 0.5, 1.0]]
_VALUE = [[4.0, 8.0, 16.0], [100.0, 2.0, 4.0]]


@pytest.mark.parametrize(
  ("lambda_", "expected"),
  [
    # r + d v.
    (0.0, [[3.0, 6.0, 11.0], [1.0, 6.0, 11.0]]),
    # 11; 2 + 0.5 * 11 = 7.5; 1 + 0.5 * 7.5. And 11; 5 + 0.5 * 11; 1.
    (1.0, [[4.75, 7.5, 11.0], [1.0, 10.5, 11.0]]),
    # 11; 2 + 0.5 * (4 + 5.5) = 6.75; 1 + 0.5 * (2 + 3.375). And 11; 5 + 0.5 * (1 + 5.5); 1.
    (0.5, [[3.6875, 6.75, 11.0], [1.0, 8.25, 11.0]]),
  ],
)
def test_lambda_returns(lambda_, expected):
  inputs = (tf.constant(x) for x in (_REWARD, _DISCOUNT, _VALUE))
  np.testing.assert_allclose(lambda_returns(*inputs, lambda_), expected)
