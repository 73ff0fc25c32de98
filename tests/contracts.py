"""What every `WorldModel` promises, as tests to inherit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import (
  OBSERVATIONS,
  assert_same,
  make_batch,
  one_hot_actions,
  random_observation,
  rows_of,
)
from wm_tf import rng
from wm_tf.core import Embedded, Prediction, image_observation
from wm_tf.imagination import observe_sequence
from wm_tf.training import checkpoints

_B, _T = 3, 5
_SEED = rng.make_seed(11)
_ROW_SEEDS = tf.constant([[1, 2], [3, 4], [5, 6]])


def _specs(nest):
  return [(x.shape, x.dtype) for x in tf.nest.flatten(nest)]


def _at(nest, step):
  """One step of sequences `[B, T, ...]`."""
  return tf.nest.map_structure(lambda x: x[:, step], nest)


def _step(batch, step):
  """What `observe` takes of one step of a batch, after the state."""
  return _at((batch.prev_action, batch.observation, batch.is_first), step)


class WorldModelContract:
  """Inherit, and give a fixture of scope `class`; override the second if need be:

  `make_model`: a function of an integer that makes a model with weights drawn from it.
  `observation_spec`: the `ObservationSpec` of the observations that the model takes.
  """

  @pytest.fixture(scope="class")
  @classmethod
  def observation_spec(cls):
    return image_observation((64, 64, 3), (64, 64, 3))

  @pytest.fixture(scope="class")
  @classmethod
  def model(cls, make_model):
    return make_model(0)

  @pytest.fixture(scope="class")
  @classmethod
  def batch(cls, model, observation_spec):
    observation = random_observation(observation_spec, _B, _T)
    batch = make_batch(observation, model.action_size, lengths=(5, 3, 4))
    if model.num_choices:
      action = one_hot_actions(model.num_choices, batch.prev_action)
      batch = batch._replace(prev_action=tf.where(batch.is_first[..., tf.newaxis], 0.0, action))
    return batch

  @pytest.fixture(scope="class")
  @classmethod
  def state(cls, model, batch):
    """What three frames leave behind."""
    state = model.initial_state(_B)
    for t in range(3):
      state = model.observe(state, *_step(batch, t), _SEED)
    return state

  @pytest.fixture(scope="class")
  @classmethod
  def action(cls, model):
    action = rng.uniform([_B, model.action_size], rng.make_seed(4)) * 2 - 1
    return one_hot_actions(model.num_choices, action) if model.num_choices else action

  def test_shapes_and_dtypes(self, model, state, action, observation_spec):
    initial = model.initial_state(_B)
    tf.nest.assert_same_structure(state, initial)
    assert _specs(state) == _specs(initial)
    assert all(x.shape[0] == _B for x in tf.nest.flatten(initial))

    features = model.features(state)
    assert (features.shape, features.dtype) == ((_B, model.feature_size), tf.float32)
    only_centred = model.only_centred_features()
    assert (only_centred.shape, only_centred.dtype) == ((model.feature_size,), bool)
    for part, mean in zip(
      observation_spec.parts, observation_spec.unpack(model.decode(state)), strict=True
    ):
      assert (mean.shape, mean.dtype) == ((_B, *part.shape), tf.float32)
      if part.kind == "image":
        assert 0.0 <= mean.numpy().min() <= mean.numpy().max() <= 1.0

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
    opposite = 1.0 - action if model.num_choices else -action
    for change in ((state, opposite), (rows_of(state, [1, 2, 0]), action)):
      other = model.features(model.imagine(*change, _SEED).state)
      assert np.abs(one - other).max(-1).min() > 1e-4

  def test_the_first_frame_resets(self, model, batch, state):
    prev_action, observation, _ = _step(batch, 3)

    def observe(state, action, is_first):
      return model.observe(state, action, observation, tf.constant(is_first), _SEED)

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
    inputs = _step(batch, 3)
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

    def imagine(temperature, seed=_SEED):
      return model.imagine(state, action, seed, temperature)

    def spread(one, two):
      return np.abs(model.features(one.state) - model.features(two.state)).max()

    cold, warm = imagine(0.0), imagine(1.5)
    # Towards 0 the most likely future, whatever the seed.
    other = rng.make_seed(12)
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

    def other_padding(x):
      x = x.numpy()
      x[pad] = x[pad] / 3 + 7
      return tf.constant(x)

    changed = {name: getattr(batch, name) for name in batch._fields[:4]}
    other = batch._replace(**tf.nest.map_structure(other_padding, changed))
    assert_same(model.loss(other, _SEED), model.loss(batch, _SEED))
    for one, two in zip(
      tf.nest.flatten(observe_sequence(model, batch, _SEED)),
      tf.nest.flatten(observe_sequence(model, other, _SEED)),
      strict=True,
    ):
      np.testing.assert_allclose(one[~pad], two[~pad], atol=1e-5)

  def test_embedded_observations_equal_observations(self, model, batch):
    embedded = model.embed(batch.observation)
    assert isinstance(embedded, Embedded) and embedded.value.shape[:2] == (_B, _T)
    assert_same(_at(embedded, 1), model.embed(_at(batch.observation, 1)), atol=1e-4)
    assert_same(model.embed(embedded), embedded, rtol=0, atol=0)
    cached = batch._replace(observation=embedded)
    assert_same(model.loss(cached, _SEED), model.loss(batch, _SEED), rtol=1e-4)
    assert_same(
      observe_sequence(model, cached, _SEED), observe_sequence(model, batch, _SEED), rtol=1e-4
    )

  def test_diagnostic_latents_are_of_any_number_of_states(self, model, batch):
    states = observe_sequence(model, batch, _SEED)
    latent = model.diagnostic_latent(states)
    assert latent.shape[:2] == (_B, _T) and latent.shape.rank == 3
    assert_same(latent[:, 2], model.diagnostic_latent(_at(states, 2)))
    assert np.ptp(latent, axis=(0, 1)).max() > 1e-3

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
    observation = _at(batch.observation, 1)

    @tf.function(
      input_signature=[
        tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), observation),
        tf.TensorSpec([None, model.action_size]),
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None]),
      ]
    )
    def run(observation, action, seed, temperature):
      rows = tf.shape(action)[0]
      state = model.initial_state(rows)
      state = model.observe(state, action, observation, tf.zeros([rows], tf.bool), seed)
      prediction = model.imagine(state, action, seed, temperature)
      return prediction, model.features(state), model.decode(prediction.state)

    temperature = tf.constant([1.0, 0.5, 2.0])
    inputs = observation, action, _ROW_SEEDS, temperature
    together = run(*inputs)
    assert_same(together, run.python_function(*inputs), atol=1e-4)
    assert_same(run(*rows_of(inputs, [1])), rows_of(together, [1]), atol=1e-4)

  @pytest.mark.slow
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


class ManyWorldsContract(WorldModelContract):
  """The contract on several worlds.

  Inherit, and give `make_model` and another fixture of scope `class`:

  `world`: a tuple that begins with a name of `OBSERVATIONS`.
  """

  @pytest.fixture(scope="class")
  @classmethod
  def observation_spec(cls, world):
    return OBSERVATIONS[world[0]]
