"""What every `WorldModel` promises, as tests to inherit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import assert_same, make_batch, posteriors_of, random_frames, rows_of
from wm_tf import rng
from wm_tf.core import Prediction
from wm_tf.imagination import observe_sequence
from wm_tf.training import checkpoints

_B, _T = 3, 5
_SEED = rng.make_seed(11)
_ROW_SEEDS = tf.constant([[1, 2], [3, 4], [5, 6]])


def _specs(nest):
  return [(x.shape, x.dtype) for x in tf.nest.flatten(nest)]


def _rows(states, step):
  return tf.nest.map_structure(lambda x: x[:, step], states)


class WorldModelContract:
  """Inherit, and give two fixtures of scope `class`:

  `make_model`: a function of an integer that makes a model with weights drawn from it.
  `posteriors`: a function of a model and frames `uint8[B, T, 64, 64, 3]` that makes the cached
    posteriors `float32[B, T, 2 Z]`, or None for a family that takes frames only.
  """

  @pytest.fixture(scope="class")
  @classmethod
  def model(cls, make_model):
    return make_model(0)

  @pytest.fixture(scope="class")
  @classmethod
  def batch(cls, model):
    return make_batch(random_frames(_B, _T), model.action_size, lengths=(5, 3, 4))

  @pytest.fixture(scope="class")
  @classmethod
  def state(cls, model, batch):
    """What three frames leave behind."""
    state = model.initial_state(_B)
    for t in range(3):
      inputs = batch.prev_action[:, t], batch.observation[:, t], batch.is_first[:, t]
      state = model.observe(state, *inputs, _SEED)
    return state

  @pytest.fixture(scope="class")
  @classmethod
  def action(cls, model):
    return rng.uniform([_B, model.action_size], rng.make_seed(4)) * 2 - 1

  def test_shapes_and_dtypes(self, model, state, action):
    initial = model.initial_state(_B)
    tf.nest.assert_same_structure(state, initial)
    assert _specs(state) == _specs(initial)
    assert all(x.shape[0] == _B for x in tf.nest.flatten(initial))

    features = model.features(state)
    assert (features.shape, features.dtype) == ((_B, model.feature_size), tf.float32)
    frame = model.decode(state)
    assert (frame.shape, frame.dtype) == ((_B, 64, 64, 3), tf.float32)
    assert 0.0 <= frame.numpy().min() <= frame.numpy().max() <= 1.0

    for seed in (_SEED, _ROW_SEEDS):
      noise = model.draw_noise(_B, 4, seed)
      assert all(x.shape[:2] == (_B, 4) for x in tf.nest.flatten(noise))
      prediction = model.imagine(state, action, seed)
      assert isinstance(prediction, Prediction)
      assert _specs(prediction.state) == _specs(initial)
      assert _specs(prediction[1:]) == [((_B,), tf.float32)] * 3
    assert np.all((prediction.discount >= 0) & (prediction.discount <= 1))
    assert np.all(prediction.disagreement >= 0)

  def test_the_seed_decides_the_future(self, model, state, action):
    one = model.imagine(state, action, _SEED)
    assert_same(one, model.imagine(state, action, _SEED), rtol=0, atol=0)
    other = model.imagine(state, action, rng.make_seed(12))
    assert np.abs(model.features(one.state) - model.features(other.state)).max() > 1e-3

  def test_action_and_state_matter(self, model, state, action):
    one = model.features(model.imagine(state, action, _SEED).state)
    for change in ((state, -action), (rows_of(state, [1, 2, 0]), action)):
      other = model.features(model.imagine(*change, _SEED).state)
      assert np.abs(one - other).max(-1).min() > 1e-4

  def test_the_first_frame_resets(self, model, batch, state):
    observe = lambda state, action, is_first: model.observe(
      state, action, batch.observation[:, 3], tf.constant(is_first), _SEED
    )
    prev_action = batch.prev_action[:, 3]
    fresh = observe(model.initial_state(_B), tf.zeros_like(prev_action), [True] * _B)
    later = observe(state, prev_action, [False] * _B)
    assert not np.allclose(model.features(fresh), model.features(later), atol=1e-4)
    # Nothing of what was before may remain, were it NaN.
    garbage = tf.nest.map_structure(lambda x: np.nan * x, state)
    assert_same(observe(garbage, np.nan * prev_action, [True] * _B), fresh, rtol=0, atol=0)
    # Row by row.
    mixed = observe(state, prev_action, [False, True, False])
    for row, expected in enumerate((later, fresh, later)):
      assert_same(rows_of(mixed, [row]), rows_of(expected, [row]))

  def test_rows_are_independent(self, model, batch, state, action):
    noise = model.draw_noise(_B, 1, _SEED)
    step = tf.nest.map_structure(lambda x: x[:, 0], noise)
    together = model.imagine_with_noise(state, action, step)
    # A rollout's way to the same.
    assert_same(model.imaginer()(state, action, step), together)
    inputs = batch.prev_action[:, 3], batch.observation[:, 3], batch.is_first[:, 3]
    observed = model.observe(state, *inputs, _ROW_SEEDS)
    for row in range(_B):
      alone = rows_of((state, action, step, inputs), [row])
      assert_same(model.imagine_with_noise(*alone[:3]), rows_of(together, [row]))
      seed = _ROW_SEEDS[row : row + 1]
      assert_same(model.observe(alone[0], *alone[3], seed), rows_of(observed, [row]))

  def test_a_batch_with_a_seed_per_row_is_its_rows(self, model, state, action):
    together = model.imagine(state, action, _ROW_SEEDS)
    noise = model.draw_noise(_B, 4, _ROW_SEEDS)
    for row in range(_B):
      seed = _ROW_SEEDS[row : row + 1]
      alone = model.imagine(rows_of(state, [row]), action[row : row + 1], seed)
      assert_same(alone, rows_of(together, [row]))
      assert_same(model.draw_noise(1, 4, seed), rows_of(noise, [row]), rtol=0, atol=0)

  def test_imagine_is_imagine_with_drawn_noise(self, model, state, action):
    for seed in (_SEED, _ROW_SEEDS):
      noise = tf.nest.map_structure(lambda x: x[:, 0], model.draw_noise(_B, 1, seed))
      for temperature in (0.5, 1.0):
        drawn = model.imagine_with_noise(state, action, noise, temperature)
        assert_same(model.imagine(state, action, seed, temperature), drawn, rtol=0, atol=0)

  def test_temperature(self, model, state, action):
    imagine = lambda t, seed=_SEED: model.imagine(state, action, seed, t)
    cold, warm = imagine(0.0), imagine(1.5)
    # Towards 0 the most likely future, whatever the seed.
    other = rng.make_seed(12)
    spread = lambda one, two: np.abs(model.features(one.state) - model.features(two.state)).max()
    assert spread(cold, imagine(0.0, other)) < 0.1 * spread(warm, imagine(1.5, other))
    assert_same(imagine(0), cold, rtol=0, atol=0)
    assert_same(imagine(tf.fill([_B], 1.5)), warm)
    mixed = imagine(tf.constant([1.5, 0.0, 1.5]))
    for row, expected in enumerate((warm, cold, warm)):
      assert_same(rows_of(mixed, [row]), rows_of(expected, [row]))

  def test_loss_is_a_number_with_gradients(self, model, batch):
    with tf.GradientTape() as tape:
      loss, metrics = model.loss(batch, _SEED)
    assert (loss.shape, loss.dtype) == ((), tf.float32) and np.isfinite(loss)
    assert metrics
    for name, value in metrics.items():
      assert value.shape == () and np.isfinite(value), name
    variables = model.trainable_variables
    assert variables
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
      assert gradient is not None and np.isfinite(gradient).all(), variable.path
    assert_same(model.loss(batch, _SEED), (loss, metrics), rtol=0, atol=0)

  def test_padding_does_not_matter(self, model, batch):
    """Neither to the loss nor, as far as there is no padding, to the states."""
    pad = ~batch.mask.numpy()
    changed = []
    for x in batch[:4]:
      x = x.numpy()
      x[pad] = x[pad] / 3 + 7
      changed.append(tf.constant(x))
    other = batch._replace(**dict(zip(batch._fields, changed, strict=False)))
    assert_same(model.loss(other, _SEED), model.loss(batch, _SEED))
    for one, two in zip(
      tf.nest.flatten(observe_sequence(model, batch, _SEED)),
      tf.nest.flatten(observe_sequence(model, other, _SEED)),
      strict=True,
    ):
      np.testing.assert_allclose(one[~pad], two[~pad], atol=1e-5)

  def test_cached_posteriors_equal_frames(self, model, batch, posteriors):
    cached = posteriors(model, batch.observation)
    if cached is None:
      pytest.skip("takes frames only")
    assert cached.shape == (_B, _T, 2 * model.latent_size)
    cached = batch._replace(observation=cached)
    assert_same(model.loss(cached, _SEED), model.loss(batch, _SEED), rtol=1e-4)
    assert_same(
      observe_sequence(model, cached, _SEED), observe_sequence(model, batch, _SEED), rtol=1e-4
    )

  def test_weights_are_all_there_is(self, model, make_model, batch, state, action, tmp_path):
    checkpoints.save_weights(model, tmp_path / "weights.npz")
    other = make_model(1)
    before = other.loss(batch, _SEED)[0]
    assert abs(before - model.loss(batch, _SEED)[0]) > 1e-3
    checkpoints.load_weights(other, tmp_path / "weights.npz")
    assert_same(other.loss(batch, _SEED), model.loss(batch, _SEED))
    assert_same(other.imagine(state, action, _SEED), model.imagine(state, action, _SEED))
    assert_same(other.decode(state), model.decode(state))

  def test_graph_of_any_batch_size(self, model, batch, action):
    """As an export has it."""

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, 64, 64, 3], tf.uint8),
        tf.TensorSpec([None, model.action_size]),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None]),
      ]
    )
    def run(frame, action, seed, temperature):
      rows = tf.shape(frame)[0]
      state = model.initial_state(rows)
      state = model.observe(state, action, frame, tf.zeros([rows], tf.bool), seed)
      prediction = model.imagine(state, action, seed, temperature)
      return prediction, model.features(state), model.decode(prediction.state)

    temperature = tf.constant([1.0, 0.5, 2.0])
    inputs = batch.observation[:, 1], action, _ROW_SEEDS, temperature
    together = run(*inputs)
    assert_same(together, run.python_function(*inputs), atol=1e-4)
    assert_same(run(*rows_of(inputs, [1])), rows_of(together, [1]), atol=1e-4)

  def test_dreams_compile(self, model, state, action):
    """Under XLA the same noise gives the same dream (what it draws itself differs: see `rng`)."""

    def dream(state, noise):
      total = 0.0
      for t in range(2):
        step = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
        prediction = model.imagine_with_noise(state, action, step, 1.1)
        state, total = prediction.state, total + prediction.reward
      return state, total, model.features(state)

    noise = model.draw_noise(_B, 2, _SEED)
    assert_same(tf.function(dream, jit_compile=True)(state, noise), dream(state, noise), atol=1e-4)


class LatentDynamicsContract(WorldModelContract):
  """The same for models with a VAE: give `make_model`."""

  @pytest.fixture(scope="class")
  @classmethod
  def posteriors(cls):
    return posteriors_of
