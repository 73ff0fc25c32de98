"""World models small enough for tests: one whose every number follows by hand, and real ones."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import (
  Batch,
  Embedded,
  ObservationPart,
  ObservationSpec,
  Prediction,
  image_observation,
)
from wm_tf.imagination import imagine_returns, policy_action_fn
from wm_tf.models.ensemble import dynamics_class
from wm_tf.models.mdn_rnn import LatentDynamics, MDNRNNConfig
from wm_tf.models.mixture_head import MixtureHead
from wm_tf.models.rssm import RSSM, RSSMConfig
from wm_tf.models.vae import VAE, VAEConfig
from wm_tf.models.world_model import WorldModel


class AdditiveState(NamedTuple):
  z: tf.Tensor  # float32[B, A], the position
  distance: tf.Tensor  # float32[B, 1], sum of |action| since the first frame


class AdditiveWorld(WorldModel):
  """`z' = z + action`, and the reward is `-|z' - goal|^2`.

  A frame shows the position: `z` is its top left pixel's first A channels, divided by 100. The
  disagreement of a step is the sum of its |action|.

  Args:
    goal: `A` numbers, or one.
    action_size: A; the latent size too.
    noise_scale: standard deviation of a step at temperature 1.
    discount: of every step.
    gain: weight of the action; learned.
  """

  def __init__(self, goal=2.5, action_size=2, noise_scale=0.0, discount=1.0, gain=1.0):
    super().__init__(name="additive")
    self.latent_size = self.action_size = action_size
    self.feature_size = action_size + 1
    self.goal, self.noise_scale, self.discount = goal, noise_scale, discount
    constant = keras.initializers.Constant
    self.gain = self.add_weight(name="gain", shape=(), initializer=constant(gain))
    self.latent_scale = self.add_weight(
      name="latent_scale", shape=(action_size,), initializer=constant(2.0), trainable=False
    )
    self.built = True

  def initial_state(self, batch_size):
    return AdditiveState(tf.zeros([batch_size, self.latent_size]), tf.zeros([batch_size, 1]))

  def features(self, state):
    return tf.concat(state, axis=-1)

  def decode(self, state):
    pixel = tf.clip_by_value(tf.reduce_mean(state.z, axis=-1) * (100 / 255), 0.0, 1.0)
    return tf.tile(pixel[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 64, 64, 3])

  def only_centred_features(self):
    return np.arange(self.feature_size) < self.latent_size

  def diagnostic_latent(self, state):
    return state.z / self.latent_scale

  def embed(self, observation):
    return Embedded(self.posterior(observation))

  def posterior(self, observation):
    if isinstance(observation, Embedded):
      return observation.value[..., : self.latent_size]
    return tf.cast(observation[..., 0, 0, : self.latent_size], tf.float32) / 100.0

  def observe(self, state, prev_action, observation, is_first, seed):
    distance = state.distance + tf.reduce_sum(tf.abs(prev_action), -1, keepdims=True)
    distance = tf.where(is_first[:, tf.newaxis], tf.zeros_like(distance), distance)
    return AdditiveState(self.posterior(observation), distance)

  def draw_noise(self, batch_size, num_steps, seed):
    return rng.normal([batch_size, num_steps, self.latent_size], seed)

  def imagine_with_noise(self, state, action, noise, temperature=1.0):
    scale = self.noise_scale * tf.sqrt(tf.cast(temperature, tf.float32))
    z = state.z + self.gain * action + tf.reshape(scale, [-1, 1]) * noise
    moved = tf.reduce_sum(tf.abs(action), axis=-1)
    return Prediction(
      state=AdditiveState(z, state.distance + moved[:, tf.newaxis]),
      reward=-tf.reduce_sum(tf.square(z - self.goal), axis=-1),
      discount=tf.fill(tf.shape(moved), self.discount),
      disagreement=moved,
    )

  def loss(self, batch, seed):
    z = self.posterior(batch.observation)
    error = tf.square(z[:, 1:] - z[:, :-1] - self.gain * batch.prev_action[:, 1:])
    mask = tf.cast(batch.mask[:, 1:], tf.float32)
    loss = tf.reduce_sum(tf.reduce_sum(error, -1) * mask) / tf.reduce_sum(mask)
    return loss, {"error": loss}


def state_at(z) -> AdditiveState:
  """The state of an `AdditiveWorld` at positions `z[B, A]`, where nothing has moved yet."""
  z = tf.constant(z, tf.float32)
  return AdditiveState(z, tf.zeros([z.shape[0], 1]))


def best_return(world: AdditiveWorld, z, horizon: int) -> np.ndarray:
  """The largest return of `horizon` steps from positions `z[B, A]`, without noise: `float64[B]`.

  Each step goes towards the goal as far as it may, which is best for every later step too.
  """
  z, total = np.asarray(z, np.float64), 0.0
  for _ in range(horizon):
    z = z + np.clip(world.goal - z, -1.0, 1.0)
    total = total - np.square(z - world.goal).sum(-1)
  return total


def assert_near_optimum(world: AdditiveWorld, policy, z, horizon: int) -> None:
  """Of the way from standing still to the best return there is, a policy goes 90% in every dream.

  Without noise, from those of the positions `z[B, A]` from where the way is long.
  """
  seed = rng.make_seed(3)
  found = imagine_returns(
    AdditiveWorld(goal=world.goal), policy_action_fn(policy, seed), state_at(z), horizon, seed
  ).imagined_return
  best = best_return(world, z, horizon)
  still = -horizon * np.square(z - world.goal).sum(1)
  far = best - still > 3.0
  assert far.sum() > 20
  assert np.all(found[far] > (best - 0.1 * (best - still))[far])


class Always:
  """A policy that takes the same action always, and counts in its memory how often."""

  def __init__(self, action):
    self.action = tf.constant(action, tf.float32)

  def initial_memory(self, batch_size):
    return tf.zeros([batch_size])

  def act(self, state, memory, seed, explore=False):
    rows = tf.shape(tf.nest.flatten(state)[0])[0]
    return tf.tile(self.action[tf.newaxis], [rows, 1]), memory + 1.0


# One of each kind of observation.
OBSERVATIONS = {
  "image": image_observation((64, 64, 3), (64, 64, 3)),
  "gray": image_observation((48, 37, 1), (48, 37, 1)),
  "vector": ObservationSpec((ObservationPart("", "vector", (3,), (3,), "float32"),)),
  "mixed": ObservationSpec(
    (
      ObservationPart("camera", "image", (32, 40, 2), (32, 40, 2), "uint8"),
      ObservationPart("joints", "vector", (5,), (5,), "float64"),
      ObservationPart("speed", "vector", (1,), (), "float32"),
    )
  ),
}


def small_vae(seed: int = 0, observation: ObservationSpec | None = None, **options) -> VAE:
  """A VAE of 4 latents and few filters, with weights and statistics drawn from `seed`.

  It observes one 64x64x3 image if `observation` is None.
  """
  config = VAEConfig(
    **{
      "latent_size": 4,
      "encoder_filters": (4, 4, 4, 8),
      "decoder_filters": (4, 4, 4),
      "vector_units": (6,),
      **options,
    }
  )
  vae = VAE(config) if observation is None else VAE(config, observation)
  _randomize_vae(vae, seed)
  return vae


def _randomize_vae(vae: VAE, seed: int) -> None:
  randomize(vae, seed)
  generator = np.random.default_rng(seed)
  for scaler in vae.scalers:
    scaler.scale.assign(generator.uniform(0.5, 2.0, scaler.scale.shape))


def small_mdn_rnn(
  seed: int = 0,
  action_size: int = 2,
  *,
  observation: ObservationSpec | None = None,
  num_choices: tuple[int, ...] = (),
  **options,
) -> LatentDynamics:
  """An MDN-RNN on a `small_vae`, with weights and statistics drawn from `seed`.

  With `ensemble_size` an ensemble of them; with `num_choices` A is their sum.
  """
  config = MDNRNNConfig(
    **{
      "hidden_size": 6,
      "num_mixtures": 3,
      "head_hidden_size": 5,
      "reward_bins": (-1.0, 0.0, 2.0),
      **options,
    }
  )
  vae = small_vae(seed, observation)
  action_size = sum(num_choices) or action_size
  model = dynamics_class(config)(vae, action_size, config, num_choices=num_choices)
  randomize(model, seed)
  for scaler in vae.scalers:
    scaler.scale.assign(tf.abs(scaler.scale) + 0.5)
  generator = np.random.default_rng(seed)
  model.latent_loc.assign(generator.normal(0.0, 0.3, model.latent_size))
  model.latent_scale.assign(generator.uniform(0.5, 1.5, model.latent_size))
  model.change_scale.assign(generator.uniform(0.2, 0.6, model.latent_size))
  if config.reward_bins is None:
    model.reward.data_limit.assign(2.0)
  if config.ensemble_size > 1:
    model.reward_scale.assign(0.8)
  return model


def small_rssm(
  seed: int = 0,
  action_size: int = 2,
  *,
  observation: ObservationSpec | None = None,
  num_choices: tuple[int, ...] = (),
  **options,
) -> RSSM:
  """An RSSM of few units, with weights and statistics drawn from `seed`.

  It observes one 64x64x3 image if `observation` is None; with `num_choices` A is their sum.
  """
  config = RSSMConfig(
    **{
      "deter_size": 8,
      "hidden_size": 6,
      "num_blocks": 2,
      "stoch_size": 3,
      "num_classes": 4,
      "image_filters": 4,
      "image_units": 7,
      "vector_units": (6,),
      "head_hidden_size": 5,
      **options,
    }
  )
  observation = OBSERVATIONS["image"] if observation is None else observation
  model = RSSM(observation, sum(num_choices) or action_size, config, num_choices)
  randomize(model, seed)
  generator = np.random.default_rng(seed)
  for scaler in model.scalers:
    scaler.scale.assign(generator.uniform(0.5, 2.0, scaler.scale.shape))
  model.reward.data_limit.assign(2.0)
  return model


def randomize(model: keras.Model, seed: int) -> None:
  """Draws every weight, biases too, of a size at which all of them matter."""
  generator = np.random.default_rng(seed)
  for weight in model.weights:
    shape = tuple(weight.shape)
    fan_in = np.prod(shape[:-1])
    if "transpose" in weight.path and len(shape) == 4:
      fan_in = np.prod(shape) / shape[2] / 4  # Each pixel is reached by a quarter of the kernel.
    scale = 0.5 if len(shape) == 1 else 1.4 / np.sqrt(fan_in)
    weight.assign(generator.normal(0.0, scale, shape))


def random_head(head, seed: int = 0):
  """A head with standard normal weights; its statistics stay as they are."""
  generator = np.random.default_rng(seed)
  for weight in head.trainable_weights:
    weight.assign(generator.normal(size=weight.shape))
  return head


def set_mixture(head: MixtureHead, weights, loc, scale) -> None:
  """Makes a head's mixture what it is told, whatever the hidden state.

  Args:
    head: of either kind.
    weights: `[Z, K]`, or `[K]` for a joint mixture.
    loc, scale: `[Z, K]`; scales between 0.01 and 7.
  """
  kernel, bias = head.projection.kernel, head.projection.bias
  kernel.assign(tf.zeros_like(kernel))

  # The inverse of `soft_bound(x, -5, 2)`.
  def inverse(y):
    return np.log(np.expm1(y))

  log_scale = 2.0 - inverse(7.0 - inverse(np.log(scale) + 5.0))
  bias.assign(np.concatenate([np.log(weights).ravel(), np.ravel(loc), log_scale.ravel()]))


def random_frames(*shape: int, seed: int = 0) -> np.ndarray:
  """`uint8[*shape, 64, 64, 3]` of smooth colours."""
  generator = np.random.default_rng(seed)
  small = generator.integers(0, 256, (*shape, 4, 4, 3), np.uint8)
  return small.repeat(16, axis=-3).repeat(16, axis=-2)


def random_observation(spec: ObservationSpec, *shape: int, seed: int = 0):
  """An observation with leading dimensions `shape`: smooth images, vectors of unequal scales."""
  generator = np.random.default_rng(seed)
  values = []
  for part in spec.parts:
    if part.kind == "image":
      height, width, channels = part.shape
      blocks = generator.integers(0, 256, (*shape, 4, 4, channels), np.uint8)
      rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
      values.append(blocks[..., rows, :, :][..., columns, :])
    else:
      scale = 10.0 ** np.linspace(-1, 2, part.shape[0])
      values.append((scale * generator.normal(size=(*shape, *part.shape))).astype(np.float32))
  return spec.pack(values)


def one_hot_actions(num_choices, scores) -> tf.Tensor:
  """One-hot groups `float32[..., A]` of the largest of each group of `scores[..., A]`."""
  groups = tf.split(scores, num_choices, axis=-1)
  return tf.concat([tf.one_hot(tf.argmax(x, -1), x.shape[-1]) for x in groups], axis=-1)


def make_batch(observation, action_size: int = 2, lengths=None, seed: int = 0) -> Batch:
  """Sequences that begin with their episodes, around given observations `[B, T, ...]`.

  Args:
    observation: an observation (an array, or a dict of arrays) or an `Embedded`.
    action_size: A.
    lengths: of the rows, `[B]`; the rest is padding (with whatever is there). T if None.
    seed: of actions, rewards (in [-1, 2]) and terminations (of every second row, on its last step).
  """
  num_rows, num_steps = tf.nest.flatten(observation)[0].shape[:2]
  generator = np.random.default_rng(seed)
  lengths = np.full(num_rows, num_steps) if lengths is None else np.asarray(lengths)
  step = np.arange(num_steps)
  is_first = np.broadcast_to(step == 0, (num_rows, num_steps))
  action = generator.uniform(-1, 1, (num_rows, num_steps, action_size)) * ~is_first[..., None]
  reward = generator.uniform(-1, 2, (num_rows, num_steps)) * ~is_first
  terminal = (step == lengths[:, None] - 1) & (np.arange(num_rows) % 2 == 0)[:, None]
  return Batch(
    observation=tf.nest.map_structure(tf.constant, observation),
    prev_action=tf.constant(action, tf.float32),
    reward=tf.constant(reward, tf.float32),
    discount=tf.constant(~terminal, tf.float32),
    is_first=tf.constant(is_first),
    mask=tf.constant(step < lengths[:, None]),
  )


def latents_of(model: LatentDynamics, num_rows, num_steps, seed=0, log_scale=-1.5) -> np.ndarray:
  """Posteriors `float32[B, T, 2 Z]`, to be wrapped in `Embedded`: random walks, and log-scales."""
  generator = np.random.default_rng(seed)
  shape = num_rows, num_steps, model.latent_size
  loc = 0.3 * generator.normal(size=shape).cumsum(1) + model.latent_loc.numpy()
  log_scales = log_scale + 0.2 * generator.normal(size=shape)
  return np.concatenate([loc, log_scales], -1).astype(np.float32)


def embedded_batch(posteriors: np.ndarray, *args, **kwargs) -> Batch:
  """`make_batch` of posteriors `float32[B, T, 2 Z]`."""
  return make_batch(Embedded(posteriors), *args, **kwargs)


def assert_same(a, b, rtol: float = 1e-5, atol: float = 1e-5) -> None:
  """Two nests of tensors are equal but for rounding; `atol=rtol=0`: bit for bit."""
  tf.nest.assert_same_structure(a, b)
  for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def rows_of(nest, rows):
  """Some rows of a nest of tensors `[B, ...]`."""
  return tf.nest.map_structure(lambda x: tf.gather(x, rows), nest)
