"""Rollouts in a world model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Imagined, Nest, Policy, Prediction
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import gather_rows, time_major

# Maps `(step int32[], state, memory)` to `(action float32[B, A], memory)`.
ActionFn = Callable[[tf.Tensor, Nest, Nest], tuple[tf.Tensor, Nest]]


def policy_action_fn(policy: Policy, seed: tf.Tensor) -> ActionFn:
  """Returns an `ActionFn` that calls a policy, with a different seed at each step.

  Args:
    policy: the policy.
    seed: `int32[2]` or `int32[B, 2]`, from which the seeds are derived.

  Returns:
    The function.
  """
  return lambda t, state, memory: policy.act(state, memory, rng.fold_in(seed, t))


def repeat_rows(nest: Nest, num: int) -> Nest:
  """Repeats rows, one copy of all of them after another.

  Args:
    nest: tensors `[B, ...]`.
    num: number of copies.

  Returns:
    Tensors `[num * B, ...]`, in which row `n * B + b` is row `b`.
  """
  return tf.nest.map_structure(lambda x: tf.tile(x, [num] + [1] * (x.shape.rank - 1)), nest)


def draw_indices(num_rows, shape, seed: tf.Tensor) -> tf.Tensor:
  """Draws row numbers uniformly, with replacement.

  Args:
    num_rows: M >= 1, an int or a scalar tensor.
    shape: of the result.
    seed: `int32[2]`.

  Returns:
    `int32[shape]` in [0, M).
  """
  return tf.random.stateless_uniform(shape, seed, maxval=num_rows, dtype=tf.int32)


def draw_rows(starts: Nest, num: int, seed: tf.Tensor, allowed: tf.Tensor | None = None) -> Nest:
  """Draws the states that dreams begin from, uniformly and with replacement.

  Args:
    starts: M >= 1 states, a nest of `[M, ...]`.
    num: N, how many to draw.
    seed: `int32[2]`.
    allowed: `bool[M]`, the states that may be drawn, at least one; None for all.

  Returns:
    A nest of `[N, ...]`.
  """
  if allowed is None:
    num_starts = tf.shape(tf.nest.flatten(starts)[0])[0]
    return gather_rows(starts, draw_indices(num_starts, [num], seed))
  count = tf.cumsum(tf.cast(allowed, tf.int32))
  # The k-th allowed state is the first one at which the count exceeds k.
  drawn = draw_indices(tf.maximum(count[-1], 1), [num], seed)
  rows = tf.searchsorted(count, drawn, side="right")
  return gather_rows(starts, tf.minimum(rows, tf.shape(count)[0] - 1))


class Returns(NamedTuple):
  """Sums over an imagined rollout, each `float32[B]`, and the last state."""

  imagined_return: tf.Tensor  # Rewards, weighted by the probability of no earlier termination.
  unfamiliarity: tf.Tensor  # Weighted in the same way; see `WorldModel.unfamiliarity`.
  alive: tf.Tensor  # Discounted probability of no termination up to the last step.
  state: Nest


def imagine_returns(
  world_model: WorldModel,
  action_fn: ActionFn,
  state: Nest,
  horizon,
  seed: tf.Tensor | None,
  *,
  memory: Nest = (),
  temperature: Any = 1.0,
  num_copies: int = 1,
  discount: float = 1.0,
  noise: Nest | None = None,
  imagine_with_noise: Callable[..., Prediction] | None = None,
) -> Returns:
  """Rolls out and keeps only the sums. This is the inner loop of evolution and of planning.

  Args:
    world_model: the model to roll out in.
    action_fn: chooses actions; see `ActionFn`.
    state: B rows to start from; with `num_copies`, in the order of `repeat_rows`.
    horizon: number of steps, an int or a scalar tensor.
    seed: `int32[2]`, or one seed per distinct row `int32[B / num_copies, 2]`.
    memory: passed to `action_fn` at the first step.
    temperature: scalar or `float32[B]`.
    num_copies: noise is drawn for `B / num_copies` rows and shared by the copies, so that
      candidates are compared under the same noise, which lowers the variance and the cost.
    discount: factor per step in addition to the model's own discount.
    noise: result of `draw_noise` for `B / num_copies` rows, if several rollouts share it; `seed` is
      not used then.
    imagine_with_noise: result of `imaginer`, if the caller has it already.

  Returns:
    The sums and the last state; see `Returns`.
  """
  batch_size = tf.shape(tf.nest.flatten(state)[0])[0]
  if noise is None:
    noise = world_model.draw_noise(batch_size // num_copies, horizon, seed)
  if imagine_with_noise is None:
    imagine_with_noise = world_model.imaginer()
  # Time-major inside the loop only, so that a step reads one contiguous slice.
  noise = time_major(noise)

  def step(t, state, memory, total, unfamiliarity, alive):
    step_noise = repeat_rows(tf.nest.map_structure(lambda x: x[t], noise), num_copies)
    action, memory = action_fn(t, state, memory)
    prediction = imagine_with_noise(state, action, step_noise, temperature)
    return (
      t + 1,
      prediction.state,
      memory,
      total + alive * prediction.reward,
      unfamiliarity + alive * world_model.unfamiliarity(prediction.disagreement),
      alive * prediction.discount * discount,
    )

  zeros = tf.zeros([batch_size])
  _, state, _, total, unfamiliarity, alive = tf.while_loop(
    lambda t, *_: t < horizon,
    step,
    (0, state, memory, zeros, zeros, tf.ones([batch_size])),
    maximum_iterations=horizon,
  )
  return Returns(total, unfamiliarity, alive, state)


def imagine(
  world_model: WorldModel,
  action_fn: ActionFn,
  state: Nest,
  horizon: int,
  seed: tf.Tensor,
  *,
  memory: Nest = (),
  temperature: Any = 1.0,
) -> tuple[Imagined, Nest]:
  """Rolls out and keeps every step.

  Args:
    world_model, action_fn, state, horizon, seed, memory, temperature: as in `imagine_returns`.

  Returns:
    `Imagined`, and the states `[B, H, ...]` after each step, which can be decoded.
  """
  noise = world_model.draw_noise(tf.shape(tf.nest.flatten(state)[0])[0], horizon, seed)
  imagine_with_noise = world_model.imaginer()
  columns, states = [], []
  for t in range(horizon):
    action, memory = action_fn(tf.constant(t), state, memory)
    prediction = imagine_with_noise(
      state, action, tf.nest.map_structure(lambda x, t=t: x[:, t], noise), temperature
    )
    columns.append(Imagined(world_model.features(state), action, *prediction[1:]))
    state = prediction.state
    states.append(state)

  def stack(*steps):
    return tf.stack(steps, axis=1)

  return tf.nest.map_structure(stack, *columns), tf.nest.map_structure(stack, *states)


def observe_sequence(world_model: WorldModel, batch: Batch, seed: tf.Tensor) -> Nest:
  """Computes the states after each observation of real sequences.

  Padding is observed too; select by `batch.mask`.

  Args:
    world_model: the model that observes.
    batch: sequences; observations are raw or `Embedded`.
    seed: `int32[2]`.

  Returns:
    States, a nest of `[B, T, ...]`.
  """
  inputs = (batch.prev_action, batch.observation, batch.is_first)

  def observe(state, step):
    t, (prev_action, observation, is_first) = step
    return world_model.observe(state, prev_action, observation, is_first, rng.fold_in(seed, t))

  states = tf.scan(
    observe,
    (tf.range(tf.shape(batch.prev_action)[1]), time_major(inputs)),
    initializer=world_model.initial_state(tf.shape(batch.prev_action)[0]),
  )
  return time_major(states)


def make_observer(world_model: WorldModel, seed: tf.Tensor) -> Callable[[Batch], Nest]:
  """Returns `observe_sequence` for one world model and seed, as a compiled function of batches.

  Args:
    world_model: the model that observes.
    seed: `int32[2]`.

  Returns:
    A function from a `Batch` to the states `[B, T, ...]`. It is traced once per batch shape.
  """
  return tf.function(lambda batch: observe_sequence(world_model, batch, seed), autograph=False)


def one_step(
  world_model: WorldModel, batch: Batch, seed: tf.Tensor, temperature: Any = 1.0
) -> tuple[Nest, Prediction]:
  """Predicts every step of real sequences from the real state before it.

  Args:
    world_model: the model that predicts.
    batch: sequences from an episode's first observation.
    seed: `int32[2]`, for the posteriors and the predictions.
    temperature: temperature of the predictions.

  Returns:
    The real states `[B, T, ...]`, and a `Prediction` `[B, T - 1, ...]` of all states but the first.
  """
  states = observe_sequence(world_model, batch, seed)
  before = tf.nest.map_structure(lambda x: tf.reshape(x[:, :-1], [-1, *x.shape[2:]]), states)
  action = tf.reshape(batch.prev_action[:, 1:], [-1, world_model.action_size])
  predicted = world_model.imagine(before, action, seed, temperature=temperature)
  rows, steps = tf.unstack(tf.shape(batch.reward[:, 1:]))

  def split_rows(x):
    return tf.reshape(x, [rows, steps, *x.shape[1:]])

  return states, tf.nest.map_structure(split_rows, predicted)


def sample_states(
  world_model: WorldModel,
  batches: Iterable[Batch],
  num_states: int,
  seed: int,
  select_fn: Callable[[Batch], np.ndarray] | None = None,
) -> Nest:
  """Draws real states uniformly. Each of them has observed all of its episode before it.

  Args:
    world_model: the model that observes.
    batches: whole episodes from their first observation.
    num_states: M, the largest number to draw; memory is proportional to it.
    seed: seed of the draw.
    select_fn: maps a batch to `bool[B, T]`, the steps that may be drawn; all real ones if None.
      Terminal states are never drawn, because no step follows them.

  Returns:
    A nest of `[M, ...]`.

  Raises:
    ValueError: if no step may be drawn.
  """
  (states,) = draw_states(world_model, batches, [Draw(num_states, seed, select_fn)])
  return states


class Draw(NamedTuple):
  """One of several draws of real states; see `sample_states` for its fields."""

  num_states: int
  seed: int
  select_fn: Callable[[Batch], np.ndarray] | None = None


def draw_states(
  world_model: WorldModel, batches: Iterable[Batch], draws: Sequence[Draw]
) -> list[Nest]:
  """Makes several draws of real states in one pass over the data; see `sample_states`.

  With a posterior that is itself random, its noise is that of the first draw's seed.

  Args:
    world_model: the model that observes.
    batches: whole episodes from their first observation.
    draws: at least one draw.

  Returns:
    The result of `sample_states` for each draw.

  Raises:
    ValueError: if no step may be drawn.
  """
  observe = make_observer(world_model, rng.make_seed(draws[0].seed))
  reservoirs = [_Reservoir(draw) for draw in draws]
  for batch in batches:
    states = tf.nest.map_structure(lambda x: x.numpy(), observe(batch))
    for reservoir in reservoirs:
      reservoir.add(batch, states)
  return [reservoir.states() for reservoir in reservoirs]


class _Reservoir:
  """Reservoir sampling by random keys: the M smallest of all keys are a uniform draw."""

  def __init__(self, draw: Draw):
    self._draw, self._generator = draw, np.random.default_rng(draw.seed)
    self._keys, self._kept = np.zeros(0), None

  def add(self, batch: Batch, states: Nest) -> None:
    allowed = np.asarray(batch.mask).copy()
    if self._draw.select_fn is not None:
      allowed &= self._draw.select_fn(batch)
    # Terminal states get keys too, so that the keys of other states do not depend on them.
    keys = self._generator.random(allowed.sum())
    begins = np.asarray(batch.discount) > 0
    new = tf.nest.map_structure(lambda x: x[allowed & begins], states)
    keys = np.concatenate([self._keys, keys[begins[allowed]]])
    kept = new
    if self._kept is not None:
      kept = tf.nest.map_structure(lambda *xs: np.concatenate(xs), self._kept, new)
    order = np.argsort(keys)[: self._draw.num_states]
    self._keys, self._kept = keys[order], tf.nest.map_structure(lambda x: x[order], kept)

  def states(self) -> Nest:
    if not len(self._keys):
      raise ValueError(
        "No real state may be drawn: there is no data, select_fn allows nothing, or all that it "
        "allows are terminal."
      )
    return tf.nest.map_structure(tf.constant, self._kept)


def recently_rewarded(window: int, threshold: float = 0.0) -> Callable[[Batch], np.ndarray]:
  """Returns a `select_fn` for `sample_states` that leaves out states without a recent reward.

  It allows steps where one of the last `window` rewards was above `threshold`, and the first
  `window` steps of an episode.

  Args:
    window: number of steps.
    threshold: reward above which a step counts.

  Returns:
    A function from a batch to `bool[B, T]`.
  """

  def select(batch: Batch) -> np.ndarray:
    rewarded = np.asarray(batch.reward) > threshold
    rewarded[:, 0] |= np.asarray(batch.is_first)[:, 0]
    count = np.cumsum(rewarded, axis=1)
    count[:, window:] = count[:, window:] - count[:, :-window]
    return count > 0

  return select


def lambda_returns(
  reward: tf.Tensor, discount: tf.Tensor, value: tf.Tensor, lambda_: float = 0.95
) -> tf.Tensor:
  """Computes TD(lambda) targets.

  `G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1})`, with `G_H = v_H`.

  Args:
    reward: `float32[B, H]`.
    discount: `float32[B, H]`, the discount that follows each reward.
    value: `float32[B, H]`, the value of the state after each step; the last one bootstraps.
    lambda_: 0 gives one-step targets, 1 the discounted sum of rewards.

  Returns:
    `float32[B, H]`.

  References:
    Hafner et al. 2020, "Dream to Control", arXiv:1912.01603, equation 6.
  """
  target = value[:, -1]
  targets = []
  for t in reversed(range(reward.shape[1])):
    mixed = (1.0 - lambda_) * value[:, t] + lambda_ * target
    target = reward[:, t] + discount[:, t] * mixed
    targets.append(target)
  return tf.stack(targets[::-1], axis=1)
