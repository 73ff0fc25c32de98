"""The base class of world models on a VAE's latents: posteriors, standardisation, statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from wm_tf.checks import check_choice, check_counts, check_positive
from wm_tf.core import Embedded, Nest
from wm_tf.models.encoders import part_values
from wm_tf.models.heads import check_reward_bins
from wm_tf.models.mixture_head import MIXTURE_KINDS
from wm_tf.models.vae import VAE
from wm_tf.models.world_model import WorldModel

# Imagined latents are clipped to this many standard deviations around the data's mean. Beyond it
# neither the decoder nor the LSTM has been trained, and controllers exploit such states.
_LATENT_BOUND = 5.0


@dataclasses.dataclass(frozen=True)
class MDNRNNConfig:
  """Sizes and loss weights of an `MDNRNN`.

  Attributes:
    hidden_size: LSTM units (the paper: 256 for CarRacing, 512 for Doom).
    num_mixtures: K, the number of mixture components.
    mixture_kind: `per_dimension` (the paper) or `joint`; see `MixtureHead`.
    skip_connection: whether the mixture also takes the latent and the action as inputs, so that
      the LSTM need not pass them on.
    predict_change: whether the mixture is over the change of the latent rather than the latent.
    sample_latents: whether training sequences are samples of the VAE's posterior (the paper)
      rather than its means.
    reward_bins: increasing reward values, per decision, of a fixed reward distribution; None for
      symexp two-hot, which suits rewards of any scale.
    reward_limit: the largest absolute reward that symexp two-hot represents.
    reward_weight, termination_weight: weights of the two losses, relative to the latents' loss in
      nats per dimension.
    termination_positive_weight: weight of a terminal step in the termination loss; other steps
      have weight 1.
    head_hidden_size: width of a hidden layer in the reward and termination heads; 0 for none.
    ensemble_size: M, the number of members; 1 for an `MDNRNN`, more for an `Ensemble`.
  """

  hidden_size: int = 256
  num_mixtures: int = 5
  mixture_kind: str = "per_dimension"
  skip_connection: bool = True
  predict_change: bool = True
  sample_latents: bool = True
  reward_bins: tuple[float, ...] | None = None
  reward_limit: float = 22_025.0
  reward_weight: float = 1.0
  termination_weight: float = 1.0
  termination_positive_weight: float = 10.0
  head_hidden_size: int = 64
  ensemble_size: int = 1

  def __post_init__(self):
    check_choice(self, "mixture_kind", MIXTURE_KINDS, group="dynamics.")
    check_counts(self, "hidden_size", "num_mixtures", "ensemble_size", group="dynamics.")
    check_positive(self, "reward_limit")
    if self.reward_bins is not None:
      check_reward_bins(self.reward_bins)


class LatentDynamics(WorldModel):
  """A world model on the latents of a VAE, standardised with the data's statistics.

  Its state has a field `z`, `float32[B, Z]`, and its features begin with the standardised `z`.

  Attributes:
    vae: encodes and decodes observations; its weights are frozen.
    latent_loc, latent_scale: mean and standard deviation of the data's latents, `float32[Z]`.
    change_scale: root mean square of their change in one step, `float32[Z]`.
  """

  def __init__(
    self,
    vae: VAE,
    action_size: int,
    config: MDNRNNConfig,
    num_choices: tuple[int, ...],
    name: str,
  ):
    """Initializes the VAE and the statistics; see `MDNRNN` for the arguments.

    Raises:
      ValueError: if `num_choices` do not add up to `action_size`.
    """
    super().__init__(name=name)
    if num_choices and sum(num_choices) != action_size:
      raise ValueError(f"num_choices {num_choices} must add up to action_size {action_size}.")
    self.num_choices = tuple(num_choices)
    self.config = config
    self.vae = vae
    vae.trainable = False
    self.latent_size = vae.latent_size
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

  def check_rewards(self, rewards) -> None:
    """Checks that the reward head can represent rewards.

    Args:
      rewards: numbers of any shape.

    Raises:
      RewardRangeError: if a reward is not finite or lies outside the range of the head.
    """
    self.reward.check_rewards(rewards)

  def adapt(self, batches) -> None:
    """Sets the statistics of latents, of their changes and of rewards from training batches.

    Observations that are not finite are left out: one of them would make every loss NaN.

    Args:
      batches: an iterable of `Batch`.

    Raises:
      ValueError: if there are no two consecutive finite observations.
      RewardRangeError: if a reward is not finite or lies outside the range of the reward head.
    """
    count = changes = 0.0
    sums, rewards = np.zeros((3, self.latent_size)), []
    for batch in batches:
      loc, log_scale = self.posterior(batch.observation)
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
      rewards.append(np.asarray(batch.reward)[np.asarray(batch.mask & ~batch.is_first)])
    if not changes:
      raise ValueError("The sequences hold no pair of consecutive frames that are finite.")
    self._adapt_rewards(np.concatenate(rewards))
    mean = sums[0] / count
    # An unused latent is almost constant; the floor keeps its noise from being amplified.
    scale = np.sqrt(np.maximum(sums[1] / count - mean**2, 0.1**2))
    self.latent_loc.assign(mean.astype(np.float32))
    self.latent_scale.assign(scale.astype(np.float32))
    self.change_scale.assign(np.sqrt(np.maximum(sums[2] / changes, 0.05**2)).astype(np.float32))

  def _adapt_rewards(self, rewards: np.ndarray) -> None:
    self.reward.adapt(rewards)

  def decode(self, state) -> Nest:
    """Decodes `state.z` with the VAE. See `WorldModel.decode`."""
    return self.vae.decode(state.z)

  def only_centred_features(self) -> np.ndarray:
    """Returns true for the first Z features. See `WorldModel.only_centred_features`."""
    return np.arange(self.feature_size) < self.latent_size

  def diagnostic_latent(self, state) -> tf.Tensor:
    """Returns `z / latent_scale`, `float32[..., Z]`. See `WorldModel.diagnostic_latent`."""
    return state.z / self.latent_scale

  def embed(self, observation: Nest) -> Embedded:
    """Computes the VAE's posteriors, `loc` and `log_scale` concatenated, `float32[..., 2 Z]`.

    See `WorldModel.embed`.
    """
    if isinstance(observation, Embedded):
      return observation
    return Embedded(tf.concat(self.posterior(observation), axis=-1))

  def encode_outputs(self, observation: Nest) -> dict[str, tf.Tensor]:
    """Returns `loc` and `scale` of the VAE's posterior, each `float32[B, Z]`.

    See `WorldModel.encode_outputs`.
    """
    loc, log_scale = self.posterior(observation)
    return {"loc": loc, "scale": tf.exp(log_scale)}

  def posterior(self, observation: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the VAE's posterior of observations.

    Args:
      observation: with any leading dimensions, or `Embedded`.

    Returns:
      `(loc, log_scale)`, each `float32[..., Z]`.

    Raises:
      ValueError: if `observation` does not match `vae.observation`.
    """
    if isinstance(observation, Embedded):
      return tuple(tf.split(observation.value, 2, axis=-1))
    spec = self.vae.observation
    values = part_values(spec, observation)
    lead = tf.shape(values[0])[: -len(spec.parts[0].shape)]
    rows = [tf.reshape(x, [-1, *part.shape]) for x, part in zip(values, spec.parts, strict=True)]
    shape = tf.concat([lead, [self.latent_size]], axis=0)
    return tuple(tf.reshape(x, shape) for x in self.vae.encode(spec.pack(rows)))

  def standardise(self, z: tf.Tensor) -> tf.Tensor:
    """Standardises latents: `(z - latent_loc) / latent_scale`.

    Args:
      z: latents `float32[..., Z]`.

    Returns:
      `float32[..., Z]`.
    """
    return (z - self.latent_loc) / self.latent_scale

  def inputs(self, z: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Concatenates the inputs of the LSTM: the standardised latent and the action.

    Args:
      z: latents `float32[..., Z]`.
      action: `float32[..., A]`.

    Returns:
      `float32[..., Z + A]`.
    """
    return tf.concat([self.standardise(z), action], axis=-1)

  def mixture_inputs(self, h: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
    """Concatenates the inputs of the mixture head.

    Args:
      h: the LSTM's output `float32[..., U]`.
      inputs: the LSTM's inputs `float32[..., Z + A]`.

    Returns:
      `[h, inputs]`, `float32[..., U + Z + A]`; `h` alone without `config.skip_connection`.
    """
    return tf.concat([h, inputs], axis=-1) if self.config.skip_connection else h

  def mover(self) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Makes the function that applies a sample of the mixture to a latent.

    Returns:
      A function from `z` and a sample, each `float32[B, Z]`, to the next `z`, `float32[B, Z]`. The
      next latent is clipped to 5 standard deviations around the data's mean.
    """
    loc, scale = tf.convert_to_tensor(self.latent_loc), tf.convert_to_tensor(self.latent_scale)
    change_scale = tf.convert_to_tensor(self.change_scale)
    low, high = loc - _LATENT_BOUND * scale, loc + _LATENT_BOUND * scale

    def move(z, sample):
      z = z + sample * change_scale if self.config.predict_change else loc + sample * scale
      return tf.clip_by_value(z, low, high)

    return move
