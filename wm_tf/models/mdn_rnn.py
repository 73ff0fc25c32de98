"""The two-stage world model: a trained VAE, and an MDN-RNN on its latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_choice, check_counts
from wm_tf.core import Batch, Embedded, Nest, Prediction
from wm_tf.models.heads import (
  MIXTURE_KINDS,
  MixtureHead,
  RewardHead,
  TerminationHead,
  check_reward_bins,
  side_by_side,
)
from wm_tf.models.recurrence import lstm
from wm_tf.models.stacked import lstm_step
from wm_tf.models.vae import VAE
from wm_tf.models.world_model import WorldModel

# A dreamed latent is held within this many standard deviations of the data: beyond it neither the
# decoder nor the recurrent network has ever been trained, and controllers find such places.
_LATENT_BOUND = 5.0


@dataclasses.dataclass(frozen=True)
class MDNRNNConfig:
  """Sizes and loss weights of an `MDNRNN`.

  Attributes:
    hidden_size: LSTM units (the paper: 256 for CarRacing, 512 for Doom).
    num_mixtures: K.
    mixture_kind: `per_dimension` (the paper) or `joint`; see `MixtureHead`.
    skip_connection: whether the mixture also sees the latent and the action directly, not only
      through the LSTM, whose memory is then free for what is not to be seen in them.
    predict_change: whether the mixture is over the change of the latent rather than the latent.
    sample_latents: whether training sequences are samples of the VAE's posterior (the paper) or
      its means.
    reward_bins: increasing reward values of the reward distribution, per decision.
    reward_weight, termination_weight: weights of the two losses beside the latents' nats per
      dimension.
    termination_positive_weight: how much more a terminal step counts than another.
    head_hidden_size: width of a hidden layer in the reward and termination heads; 0 for none.
    ensemble_size: how many of these there are, side by side: `MDNRNN` is one, `Ensemble` more.
  """

  hidden_size: int = 256
  num_mixtures: int = 5
  mixture_kind: str = "per_dimension"
  skip_connection: bool = True
  predict_change: bool = True
  sample_latents: bool = True
  reward_bins: tuple[float, ...] = (-100.4, -0.4, 3.1, 6.6, 10.1, 13.6)
  reward_weight: float = 1.0
  termination_weight: float = 1.0
  termination_positive_weight: float = 10.0
  head_hidden_size: int = 64
  ensemble_size: int = 1

  def __post_init__(self):
    check_choice(self, "mixture_kind", MIXTURE_KINDS, group="dynamics.")
    check_counts(self, "hidden_size", "num_mixtures", "ensemble_size", group="dynamics.")
    check_reward_bins(self.reward_bins)


class LatentDynamics(WorldModel):
  """What `MDNRNN` and an ensemble of them share: the VAE, and the standardisation of its latents.

  The state has a field `z`, `float32[B, Z]`.

  Attributes:
    vae: which is not trained any more.
    latent_loc, latent_scale: mean and standard deviation of the data's latents, `float32[Z]`.
    change_scale: standard deviation of their change in a step.
  """

  def __init__(
    self,
    vae: VAE,
    action_size: int,
    config: MDNRNNConfig,
    num_choices: tuple[int, ...],
    name: str,
  ):
    super().__init__(name=name)
    if num_choices and sum(num_choices) != action_size:
      raise ValueError(f"num_choices {num_choices} must add up to action_size {action_size}.")
    self.num_choices = tuple(num_choices)
    self.config = config
    self.vae = vae
    vae.trainable = False
    self.latent_size = vae.config.latent_size
    self.action_size = action_size
    self.latent_loc = self._statistic("latent_loc", 0.0)
    self.latent_scale = self._statistic("latent_scale", 1.0)
    self.change_scale = self._statistic("change_scale", 1.0)

  def _statistic(self, name: str, value: float, shape: tuple[int, ...] | None = None):
    return self.add_weight(
      name=name,
      shape=(self.latent_size,) if shape is None else shape,
      initializer=keras.initializers.Constant(value),
      trainable=False,
    )

  def adapt(self, batches) -> None:
    """Sets the standardisation of latents and of their changes from training batches.

    Frames that are not finite are passed over: one of them would make every loss NaN.

    Args:
      batches: an iterable of `Batch` with cached posteriors or frames.

    Raises:
      ValueError: if there are no two frames in a row.
    """
    count = changes = 0.0
    sums = np.zeros((3, self.latent_size))
    for batch in batches:
      loc, log_scale = self._posterior(batch.observation)
      variance = np.exp(2.0 * log_scale) if self.config.sample_latents else 0.0 * log_scale.numpy()
      loc = loc.numpy().astype(np.float64)
      mask = np.asarray(batch.mask) & np.isfinite(loc + variance).all(-1)
      sums[0] += loc[mask].sum(0)
      sums[1] += (loc**2 + variance)[mask].sum(0)
      pairs = mask[:, 1:] & mask[:, :-1]
      squared = np.diff(loc, axis=1) ** 2 + variance[:, 1:] + variance[:, :-1]
      sums[2] += squared[pairs].sum(0)
      count += mask.sum()
      changes += pairs.sum()
    if not changes:
      raise ValueError("The sequences hold no pair of consecutive frames that are finite.")
    mean = sums[0] / count
    # An unused latent is almost constant; the floor keeps its noise from being blown up.
    scale = np.sqrt(np.maximum(sums[1] / count - mean**2, 0.1**2))
    self.latent_loc.assign(mean.astype(np.float32))
    self.latent_scale.assign(scale.astype(np.float32))
    self.change_scale.assign(np.sqrt(np.maximum(sums[2] / changes, 0.05**2)).astype(np.float32))

  def decode(self, state) -> Nest:
    return self.vae.decode(state.z)

  def only_centred_features(self) -> np.ndarray:
    return np.arange(self.feature_size) < self.latent_size

  def diagnostic_latent(self, state) -> tf.Tensor:
    return state.z / self.latent_scale

  def embed(self, observation: Nest) -> Embedded:
    if isinstance(observation, Embedded):
      return observation
    return Embedded(tf.concat(self._posterior(observation), axis=-1))

  def _standardise(self, z: tf.Tensor) -> tf.Tensor:
    return (z - self.latent_loc) / self.latent_scale

  def _inputs(self, z: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    return tf.concat([self._standardise(z), action], axis=-1)

  def _mover(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns what maps `z` and a sample of the mixture to the next latent, in the data's range."""
    loc, scale = tf.convert_to_tensor(self.latent_loc), tf.convert_to_tensor(self.latent_scale)
    change_scale = tf.convert_to_tensor(self.change_scale)
    low, high = loc - _LATENT_BOUND * scale, loc + _LATENT_BOUND * scale

    def move(z, sample):
      z = z + sample * change_scale if self.config.predict_change else loc + sample * scale
      return tf.clip_by_value(z, low, high)

    return move

  def _sequence_loss(self, z: tf.Tensor, inputs: tf.Tensor, batch: Batch):
    """The loss, and metrics, of predicting `z[..., T, Z]` from `inputs[..., T - 1, Z + A]`."""
    h = self._recur(inputs)
    if self.config.predict_change:
      target = (z[..., 1:, :] - z[..., :-1, :]) / self.change_scale
      log_jacobian = tf.reduce_sum(tf.math.log(self.change_scale / self.latent_scale))
    else:
      target, log_jacobian = self._standardise(z[..., 1:, :]), 0.0
    mask = tf.cast(batch.mask[:, 1:], tf.float32)
    count = tf.maximum(tf.reduce_sum(mask), 1.0)
    mean = lambda x: tf.reduce_sum(x * mask, axis=[-2, -1]) / count
    nll = mean(self.mixture.nll(self._mixture_inputs(h, inputs), target)) / self.latent_size
    came = lambda x: tf.broadcast_to(x[:, 1:], tf.shape(h)[:-1])
    reward = mean(self.reward.loss(self.reward.network(h), came(batch.reward)))
    termination = mean(self.termination.loss(self.termination.network(h), came(batch.discount)))
    loss = nll + self.config.reward_weight * reward + self.config.termination_weight * termination
    # Of an ensemble, the sum of the members' losses: each learns as if it were alone.
    return tf.reduce_sum(loss), {
      "nll_per_dimension": tf.reduce_mean(nll) + log_jacobian / self.latent_size,
      "reward_loss": tf.reduce_mean(reward),
      "termination_loss": tf.reduce_mean(termination),
    }

  def _recur(self, inputs: tf.Tensor) -> tf.Tensor:
    """Every step's `h`, `float32[..., T, U]`, after inputs `float32[..., T, Z + A]`."""
    return self.lstm(inputs)

  def _mixture_inputs(self, h: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    return tf.concat([h, inputs], axis=-1) if self.config.skip_connection else h

  def encode_outputs(self, observation: Nest) -> dict[str, tf.Tensor]:
    """Returns the VAE's posterior, `loc` and `scale` `float32[B, Z]`."""
    loc, log_scale = self._posterior(observation)
    return {"loc": loc, "scale": tf.exp(log_scale)}

  def _posterior(self, observation: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """`(loc, log_scale)`, each `float32[..., Z]`, of observations or of their `Embedded`."""
    if isinstance(observation, Embedded):
      return tuple(tf.split(observation.value, 2, axis=-1))
    lead = tf.shape(observation)[:-3]
    flat = self.vae.encode(tf.reshape(observation, [-1, *observation.shape[-3:]]))
    return tuple(tf.reshape(x, tf.concat([lead, [self.latent_size]], 0)) for x in flat)


class MDNRNNState(NamedTuple):
  """`z` the latent of the current frame; `h`, `c` the LSTM's summary of all before it."""

  z: tf.Tensor  # float32[B, Z]
  h: tf.Tensor  # float32[B, U]
  c: tf.Tensor  # float32[B, U]


class MDNRNN(LatentDynamics):
  """`z_{t+1} ~ P(. | z_t, a_t, h_t)` with an LSTM and a mixture density head.

  Seen as a state-space model it is one whose posterior ignores the recurrent state: `observe`
  steps the LSTM with the last latent and action, then takes `z` from the VAE.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.2 and appendix A.2.
  """

  def __init__(
    self,
    vae: VAE,
    action_size: int,
    config: MDNRNNConfig = MDNRNNConfig(),
    num_choices: tuple[int, ...] = (),
    name: str = "mdn_rnn",
  ):
    super().__init__(vae, action_size, config, num_choices, name)
    self.feature_size = self.latent_size + config.hidden_size
    input_size = self.latent_size + action_size
    self.lstm = keras.layers.LSTM(config.hidden_size, return_sequences=True, name="lstm")
    self.lstm.build((None, None, input_size))
    self.mixture = MixtureHead(
      self.latent_size,
      config.num_mixtures,
      config.mixture_kind,
      config.hidden_size + (input_size if config.skip_connection else 0),
    )
    self.reward = RewardHead(config.reward_bins, config.hidden_size, config.head_hidden_size)
    self.termination = TerminationHead(
      config.hidden_size, config.termination_positive_weight, config.head_hidden_size
    )
    self.built = True

  def initial_state(self, batch_size) -> MDNRNNState:
    zeros = lambda size: tf.zeros([batch_size, size])
    return MDNRNNState(
      z=zeros(self.latent_size), h=zeros(self.config.hidden_size), c=zeros(self.config.hidden_size)
    )

  def _recur(self, inputs):
    cell = self.lstm.cell
    weights = (cell.kernel, cell.recurrent_kernel, cell.bias)
    return lstm(inputs, *map(tf.convert_to_tensor, weights))

  def features(self, state: MDNRNNState) -> tf.Tensor:
    """`[standardised z, h]`, `float32[..., Z + U]`."""
    return tf.concat([self._standardise(state.z), state.h], axis=-1)

  def observe(self, state, prev_action, observation, is_first, seed=None) -> MDNRNNState:
    """As `WorldModel.observe`; deterministic (the posterior's mean), so `seed` is not used."""
    _, (h, c) = self.lstm.cell(self._inputs(state.z, prev_action), [state.h, state.c])
    # Not a product with 0, which would keep a NaN.
    reset = lambda x: tf.where(is_first[:, tf.newaxis], 0.0, x)
    loc, _ = self._posterior(observation)
    return MDNRNNState(z=loc, h=reset(h), c=reset(c))

  def draw_noise(self, batch_size, num_steps, seed):
    choice_seed, normal_seed = rng.split(seed, 2)
    shape = [batch_size, num_steps, self.latent_size]
    return rng.uniform(shape, choice_seed), rng.normal(shape, normal_seed)

  def imagine_with_noise(self, state, action, noise, temperature=1.0) -> Prediction:
    inputs = self._inputs(state.z, action)
    _, (h, c) = self.lstm.cell(inputs, [state.h, state.c])
    sample = self.mixture.sample(self._mixture_inputs(h, inputs), *noise, temperature)
    return self._prediction(
      MDNRNNState(self._mover()(state.z, sample), h, c),
      self.reward.network(h),
      self.termination.network(h),
    )

  def imaginer(self):
    cell, skip = self.lstm.cell, self.config.skip_connection
    gates = self._of_seen(tf.concat([cell.recurrent_kernel, cell.kernel], axis=0), cell.bias)
    gates = tf.split(gates, 4, axis=-1)
    logits, *normals = (self._of_seen(*pair) for pair in self.mixture.by_component())
    networks = [self.reward.network, self.termination.network]
    first, finish = side_by_side(networks)
    first = self._of_seen(*first)
    first = tf.pad(first, [[0, logits.shape[0] - first.shape[0]], [0, 0]])
    # Two products of about the same width: TensorFlow gives so few rows to one core each.
    weighing, normals = tf.concat([logits, first], axis=-1), tf.concat(normals, axis=-1)
    num_mixtures, move = self.mixture.num_mixtures, self._mover()
    sizes = [logits.shape[-1] // num_mixtures] * num_mixtures + [first.shape[-1]]

    def imagine(state, action, noise, temperature=1.0) -> Prediction:
      ones = tf.ones_like(action[:, :1])
      beside = [ones, state.z, action]
      seen = tf.concat([state.h, *beside], axis=-1)
      h, c = lstm_step([tf.linalg.matmul(seen, gate) for gate in gates], state.c)
      seen = tf.concat([h, *(beside if skip else [ones])], axis=-1)
      *logits, outcomes = tf.split(tf.linalg.matmul(seen, weighing), sizes, axis=-1)
      parts = tf.split(tf.linalg.matmul(seen, normals), 2 * num_mixtures, axis=-1)
      components = logits, parts[:num_mixtures], parts[num_mixtures:]
      sample = self.mixture.sample_of(components, *noise, temperature)
      return self._prediction(MDNRNNState(move(state.z, sample), h, c), *finish(outcomes))

    return imagine

  def _of_seen(self, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """A kernel for `[h, 1, z, action]` of one for `[h, standardised z, action]`, or for `h` alone.

    The bias and what the standardisation takes away are the row of the 1: TensorFlow fuses a bias
    that is added into the product, and for a planner's few rows that takes a third longer.
    """
    kernel, bias = tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)[tf.newaxis]
    h_rows, rest = kernel[: self.config.hidden_size], kernel[self.config.hidden_size :]
    if not rest.shape[0]:
      return tf.concat([h_rows, bias], axis=0)
    z_rows = rest[: self.latent_size] / self.latent_scale[:, tf.newaxis]
    bias -= tf.linalg.matmul(self.latent_loc[tf.newaxis], z_rows)
    return tf.concat([h_rows, bias, z_rows, rest[self.latent_size :]], axis=0)

  def _prediction(self, state, reward_logits, termination_logits) -> Prediction:
    return Prediction(
      state=state,
      reward=self.reward.mean(reward_logits),
      discount=self.termination.discount(termination_logits),
      disagreement=tf.zeros_like(state.h[:, 0]),
    )

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Teacher-forced loss over a batch of sequences.

    Args:
      batch: arrival-aligned; `observation` may be frames or cached posteriors.
      seed: `int32[2]` for the posterior samples.

    Returns:
      The loss (nats per latent dimension + weighted reward and termination terms) and metrics.
      `nll_per_dimension` is in nats of the standardised latent (a standard normal has 1.419),
      so that it can be compared whether or not the change is predicted.
    """
    loc, log_scale = self._posterior(batch.observation)
    z = loc
    if self.config.sample_latents:
      z += tf.exp(log_scale) * rng.normal(tf.shape(loc), seed)
    return self._sequence_loss(z, self._inputs(z[:, :-1], batch.prev_action[:, 1:]), batch)
