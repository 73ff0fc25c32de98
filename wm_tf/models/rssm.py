"""The recurrent state-space model (RSSM) of Dreamer, trained jointly on sequences.

    deter_t = f(deter_{t-1}, stoch_{t-1}, action_{t-1})     the recurrent state: a GRU
    stoch_t ~ q(stoch_t | deter_t, observation_t)           the posterior, which `observe` samples
    stoch_t ~ p(stoch_t | deter_t)                          the prior, which `imagine` samples
    observation_t, reward_t, discount_t ~ p(. | deter_t, stoch_t)

`reward_t` and `discount_t` are those that arrive with `observation_t`: see `core.Batch`.

References:
  Hafner et al. 2019, arXiv:1811.04551, equation 4 (the model).
  Hafner et al. 2020, arXiv:1912.01603, "Dream to Control" (Dreamer: Gaussian states).
  Hafner et al. 2021, arXiv:2010.02193 (DreamerV2: categorical states).
  Hafner et al. 2023, arXiv:2301.04104 (DreamerV3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Embedded, Nest, ObservationSpec, Prediction
from wm_tf.models import encoders
from wm_tf.models.gru import GRU, BlockGRU, NormDense, RMSNorm, make_tapped
from wm_tf.models.heads import SymexpRewardHead, TerminationHead
from wm_tf.models.kernels.fused import fusing
from wm_tf.models.kernels.loop import recurrent_loop
from wm_tf.models.observations import ObservationNetworks
from wm_tf.models.rssm_config import RSSMConfig as RSSMConfig
from wm_tf.models.rssm_networks import Decoder, Encoder
from wm_tf.models.stochastic import Categoricals, DiagonalGaussian, balanced_kl
from wm_tf.models.world_model import WorldModel
from wm_tf.nests import time_major

_DEFAULTS = RSSMConfig()
_POOLED = 8  # Pixels a side that `diagnostic_latent` averages.


class RSSMState(NamedTuple):
  """`deter` is the recurrent state, and `stoch` a sample of the posterior or the prior."""

  deter: tf.Tensor  # float32[B, D]
  stoch: tf.Tensor  # float32[B, S C], or float32[B, S] if Gaussian


class _RewardHead(SymexpRewardHead):
  _range_field = "rssm.reward_limit"


class RSSM(ObservationNetworks, WorldModel):
  """A recurrent state-space model of any observations and actions.

  `embed` returns what the posterior and the loss need of an observation: the posterior's product
  with the encoder's output, and the observation in network units. The encoder is trained only by a
  loss on raw observations.

  See the module's docstring for the equations and the references.

  Attributes:
    observation: the specification of the observations.
    distribution: the family of `stoch`, `Categoricals` or `DiagonalGaussian`.
  """

  def __init__(
    self,
    observation: ObservationSpec,
    action_size: int,
    config: RSSMConfig = _DEFAULTS,
    num_choices: tuple[int, ...] = (),
    name: str = "rssm",
  ):
    """Initializes the model with new weights.

    Args:
      observation: the specification of the observations.
      action_size: A.
      config: sizes and loss weights.
      num_choices: groups of a categorical action; empty if actions are continuous.
      name: the name of the Keras model.

    Raises:
      ValueError: if an image has an unsupported size, or `num_choices` do not add up to
        `action_size`.
    """
    super().__init__(name=name)
    encoders.check_parts(observation)
    if num_choices and sum(num_choices) != action_size:
      raise ValueError(f"num_choices {num_choices} must add up to action_size {action_size}.")
    self.observation, self.config = observation, config
    self.action_size, self.num_choices = action_size, tuple(num_choices)
    self.distribution = (
      Categoricals(config.stoch_size, config.num_classes, config.unimix)
      if config.stochastic == "categorical"
      else DiagonalGaussian(config.stoch_size, config.min_scale)
    )
    self.latent_size = self.distribution.size
    self.feature_size = config.deter_size + self.latent_size

    hidden, num_parameters = config.hidden_size, self.distribution.num_parameters
    sizes = (config.deter_size, hidden, self.latent_size, action_size)
    self.cell = GRU(*sizes) if config.cell == "gru" else BlockGRU(*sizes, config.num_blocks)
    self.prior_layers = [
      NormDense(hidden, hidden if i else config.deter_size) for i in range(config.prior_layers)
    ]
    self.prior_output = make_tapped(num_parameters, hidden)
    self.encoder = Encoder(
      observation, config.image_filters, config.image_units, config.vector_units, hidden
    )
    self.posterior_input = make_tapped(hidden, config.deter_size)
    self.posterior_norm = RMSNorm(hidden)
    self.posterior_output = make_tapped(num_parameters, hidden)
    self.decoder = Decoder(
      observation, config.image_filters, config.vector_units, self.feature_size
    )
    self.scalers = [encoders.VectorScaler(part.shape[0]) for part in observation.vectors]
    self.reward = _RewardHead(
      config.reward_limit, self.feature_size, config.head_hidden_size, normalised=True
    )
    self.termination = TerminationHead(
      self.feature_size,
      config.termination_positive_weight,
      config.head_hidden_size,
      normalised=True,
    )
    self.built = True

  def adapt(self, batches: Iterable[Batch], rewards_only: bool = False) -> None:
    """Sets the statistics of rewards, and those of vectors if `standardise_vectors`.

    Args:
      batches: sequences with raw observations.
      rewards_only: whether to keep the statistics of vectors, to which the networks were fitted.

    Raises:
      ValueError: if there is no finite observation.
      RewardRangeError: if a reward is not finite or lies outside the range of the reward head.
    """
    rewards = []

    def observations():
      for batch in batches:
        mask = np.asarray(batch.mask)
        rewards.append(np.asarray(batch.reward)[mask & ~np.asarray(batch.is_first)])
        yield tf.nest.map_structure(lambda x, mask=mask: np.asarray(x)[mask], batch.observation)

    stream = observations()
    if self.config.standardise_vectors and not rewards_only:
      self.adapt_scalers(stream)
    for _ in stream:  # It was not read if no statistics of vectors were taken.
      pass
    self.reward.adapt(np.concatenate([np.zeros(0), *rewards]))

  # --- The state ----------------------------------------------------------------------------

  def initial_state(self, batch_size) -> RSSMState:
    """Returns a state of zeros. See `WorldModel.initial_state`."""
    return RSSMState(
      deter=tf.zeros([batch_size, self.config.deter_size]),
      stoch=tf.zeros([batch_size, self.latent_size]),
    )

  def features(self, state: RSSMState) -> tf.Tensor:
    """Returns `[deter, stoch]`, `float32[..., F]`. See `WorldModel.features`."""
    return tf.concat([state.deter, state.stoch], axis=-1)

  def only_centred_features(self) -> np.ndarray:
    """Returns true for `stoch`, whose rare classes would be amplified.

    See `WorldModel.only_centred_features`.
    """
    return np.arange(self.feature_size) >= self.config.deter_size

  def decode(self, state: RSSMState) -> Nest:
    """Decodes `deter` and `stoch`. See `WorldModel.decode`."""
    return self.from_network_units(self.bounded_means(self.features(state)))

  def diagnostic_latent(self, state: RSSMState) -> tf.Tensor:
    """Returns the decoded means in network units, images averaged over blocks of 8 x 8 pixels.

    Distances in `deter` or `stoch` have no unit: `deter` holds past actions, which a dream knows,
    and `stoch` is a sample. See `WorldModel.diagnostic_latent`.
    """
    features = self.features(state)
    means = self.bounded_means(tf.reshape(features, [-1, self.feature_size]))
    columns = [
      keras.layers.Flatten()(tf.nn.avg_pool2d(mean, _POOLED, _POOLED, "SAME"))
      if part.kind == "image"
      else mean
      for part, mean in zip(self.observation.parts, means, strict=True)
    ]
    latent = tf.concat(columns, axis=-1)
    return tf.reshape(latent, tf.concat([tf.shape(features)[:-1], [latent.shape[-1]]], axis=0))

  # --- Distributions of the next state ------------------------------------------------------

  def next_deter(self, state: RSSMState, action: tf.Tensor) -> tf.Tensor:
    """Computes the next recurrent state.

    Args:
      state: of B rows.
      action: `float32[B, A]`.

    Returns:
      `float32[B, D]`.
    """
    return self.cell(state.deter, state.stoch, action)

  def prior(self, deter: tf.Tensor) -> tf.Tensor:
    """Computes the parameters of the prior.

    Args:
      deter: `float32[..., D]`.

    Returns:
      Parameters of `distribution`, `float32[..., P]`.
    """
    for layer in self.prior_layers:
      deter = layer(deter)
    return self.prior_output(deter)

  def posterior(self, deter: tf.Tensor, embedding: tf.Tensor) -> tf.Tensor:
    """Computes the parameters of the posterior.

    Its hidden layer reads `[deter, encoder's output]`. The product with the encoder's output does
    not depend on `deter`, so it is computed for whole sequences: it is `embedding`.

    Args:
      deter: `float32[..., D]`.
      embedding: `float32[..., hidden_size]`.

    Returns:
      Parameters of `distribution`, `float32[..., P]`.
    """
    hidden = tf.nn.silu(self.posterior_norm(self.posterior_input(deter) + embedding))
    return self.posterior_output(hidden)

  # --- Observation and imagination ----------------------------------------------------------

  def embed(self, observation: Nest) -> Embedded:
    """Returns the embedding and the observation in network units, side by side.

    See `WorldModel.embed` and the docstring of the class.
    """
    if isinstance(observation, Embedded):
      return observation
    embedding, parts = self._embedded(observation)
    lead = tf.shape(embedding)[:-1]
    flat = [
      tf.reshape(x, tf.concat([lead, [math.prod(part.shape)]], axis=0))
      for part, x in zip(self.observation.parts, parts, strict=True)
    ]
    return Embedded(tf.concat([embedding, *flat], axis=-1))

  def _embedded(self, observation: Nest) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the embedding `[..., hidden_size]`, and the parts `[..., *shape]` in network units.

    Args:
      observation: with any leading dimensions, or `Embedded`.
    """
    parts, hidden = self.observation.parts, self.config.hidden_size
    if isinstance(observation, Embedded):
      sizes = [math.prod(part.shape) for part in parts]
      embedding, *flat = tf.split(observation.value, [hidden, *sizes], axis=-1)
      lead = tf.shape(embedding)[:-1]
      return embedding, [
        tf.reshape(x, tf.concat([lead, part.shape], axis=0))
        for part, x in zip(parts, flat, strict=True)
      ]
    values = self.to_network_units(observation)
    lead = tf.shape(values[0])[: -len(parts[0].shape)]
    rows = [tf.reshape(x, [-1, *part.shape]) for part, x in zip(parts, values, strict=True)]
    embedding = self.encoder(rows)
    return tf.reshape(embedding, tf.concat([lead, [hidden]], axis=0)), values

  def observe(self, state, prev_action, observation, is_first, seed) -> RSSMState:
    """Steps the recurrent state and samples the posterior. See `WorldModel.observe`."""
    embedding, _ = self._embedded(observation)
    noise = self.draw_noise(tf.shape(prev_action)[0], 1, seed)[:, 0]
    return self._observe(state, prev_action, embedding, is_first, noise)[0]

  def _observe(self, state, prev_action, embedding, is_first, noise):
    """Returns the next state and the parameters of its posterior."""
    # `where` rather than a product with 0, which would keep a NaN.
    first = is_first[:, tf.newaxis]
    state = tf.nest.map_structure(lambda x: tf.where(first, 0.0, x), state)
    deter = self.next_deter(state, tf.where(first, 0.0, prev_action))
    posterior = self.posterior(deter, embedding)
    return RSSMState(deter, self.distribution.sample(posterior, noise)), posterior

  def draw_noise(self, batch_size, num_steps, seed) -> tf.Tensor:
    """Draws `float32[B, num_steps, S]`, uniform if `stoch` is categorical, else standard normal.

    See `WorldModel.draw_noise`.
    """
    return self.distribution.draw_noise([batch_size, num_steps], seed)

  def imagine_with_noise(self, state, action, noise, temperature: Any = 1.0) -> Prediction:
    """Steps the recurrent state and samples the prior. See `WorldModel.imagine_with_noise`."""
    deter = self.next_deter(state, action)
    state = RSSMState(deter, self.distribution.sample(self.prior(deter), noise, temperature))
    features = self.features(state)
    return Prediction(
      state=state,
      reward=self.reward.mean(self.reward.network(features)),
      discount=self.termination.discount(self.termination.network(features)),
      disagreement=tf.zeros_like(deter[:, 0]),
    )

  # --- The loss -----------------------------------------------------------------------------

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the first two results of `loss_and_states`. See `WorldModel.loss`."""
    sizes = tf.unstack(tf.shape(batch.mask))
    sizes = [known or size for known, size in zip(batch.mask.shape, sizes, strict=True)]
    return self.loss_and_states(batch, self.draw_noise(*sizes, seed))[:2]

  def loss_and_states(
    self, batch: Batch, noise: tf.Tensor, compile_loop: bool = False
  ) -> tuple[tf.Tensor, dict[str, tf.Tensor], RSSMState]:
    """Computes the loss, and the posterior states that imagination starts from.

    The loss of a step is (arXiv:2301.04104, equations 4 and 5)

        - log p(observation) - w_r log p(reward) - w_c log p(discount) + balanced KL

    (see `balanced_kl`), and the loss of a batch is its mean over the steps that are not padding.
    Sequences that begin within an episode start from a state of zeros.

    Args:
      batch: sequences in arrival alignment, of observations or `Embedded`.
      noise: of the posterior samples, a result of `draw_noise(B, T, seed)`.
      compile_loop: whether XLA compiles the loop over time, and what lies between convolutions;
        see `recurrent_loop` and `kernels.fused`.

    Returns:
      The scalar loss; scalar metrics: `sse` (squared error summed over images), `vector_mse` (mean
      squared error of vectors in standardised units), `reward_loss`, `termination_loss` and `kl`
      (nats per step, without free nats); and the states, of `[B, T, ...]`.
    """
    config, mask = self.config, tf.cast(batch.mask, tf.float32)
    with fusing(compile_loop):
      embedding, parts = self._embedded(batch.observation)
    steps = time_major((embedding, (batch.prev_action, batch.is_first, noise)))
    states, posterior = time_major(
      recurrent_loop(
        lambda state, x, others: self._observe(state, others[0], x, *others[1:]),
        self.initial_state(noise.shape[0] or tf.shape(noise)[0]),
        *steps,
        compile_loop,
      )
    )
    features, prior = self.features(states), self.prior(states.deter)

    def mean(x):
      return tf.reduce_sum(x * mask) / tf.maximum(tf.reduce_sum(mask), 1.0)

    kl = balanced_kl(
      self.distribution.kl,
      posterior,
      prior,
      dynamics_weight=config.dynamics_weight,
      representation_weight=config.representation_weight,
      free_nats=config.free_nats,
    )
    with fusing(compile_loop):
      sse, vector_error = self._errors(parts, features)
    reward = mean(self.reward.loss(self.reward.network(features), batch.reward))
    termination = mean(self.termination.loss(self.termination.network(features), batch.discount))
    loss = (
      mean(sse + vector_error / (2.0 * config.vector_scale**2))
      + config.reward_weight * reward
      + config.termination_weight * termination
      + mean(kl)
    )
    metrics = {"sse": mean(sse)} if self.observation.images else {}
    if self.observation.vectors:
      num_numbers = sum(part.shape[0] for part in self.observation.vectors)
      metrics["vector_mse"] = mean(vector_error) / num_numbers
    metrics |= {
      "reward_loss": reward,
      "termination_loss": termination,
      "kl": mean(self.distribution.kl(posterior, prior)),
    }
    return loss, metrics, states

  def _errors(self, parts: list[tf.Tensor], features: tf.Tensor) -> tuple[Any, Any]:
    """Returns the squared errors of the decoder, summed over images and over vectors, `[B, T]`."""
    specs, lead = self.observation.parts, tf.shape(features)[:-1]
    rows = [tf.reshape(x, [-1, *spec.shape]) for spec, x in zip(specs, parts, strict=True)]
    errors = self.decoder.errors(tf.reshape(features, [-1, self.feature_size]), rows)
    sums = dict.fromkeys(("image", "vector"), tf.zeros(lead))
    for spec, error in zip(specs, errors, strict=True):
      sums[spec.kind] += tf.reshape(error, lead)
    return sums["image"], sums["vector"]
