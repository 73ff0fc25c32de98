"""The observation model: a (beta-)VAE, `x -> z -> x`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras
import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_counts, check_positive
from wm_tf.core import Nest, ObservationSpec, image_observation
from wm_tf.models import encoders
from wm_tf.models.observations import ObservationNetworks
from wm_tf.models.observations import to_float as to_float

_PAPER_OBSERVATION = image_observation((64, 64, 3), (64, 64, 3))


@dataclasses.dataclass(frozen=True)
class VAEConfig:
  """Sizes and loss of a `VAE`. The defaults are the paper's (Ha & Schmidhuber 2018, appendix A.1).

  Attributes:
    latent_size: upper bound of Z, the number of latent dimensions; see `VAE.latent_size`.
    encoder_filters: filters of the stride-2, kernel-4 convolutions.
    decoder_filters: filters of the stride-2 transposed convolutions before the last one.
    vector_units: widths of the dense layers that encode and decode vectors.
    beta: weight of the KL term (Higgins et al. 2017); 1 is the evidence lower bound.
    free_nats: nats per latent dimension below which the KL is not penalised further:
      `max(KL, free_nats * Z)` over the sum of dimensions, as the paper does with 0.5.
    row_weights: `(first_row, end_row, weight)` triples. The squared error of these image rows is
      multiplied by `weight`; use it for small but important details such as an instrument bar.
    vector_scale: standard deviation of the likelihood of vectors, in standard deviations of the
      data. A decoded sample of the posterior has about this error, see `VAE`.
  """

  latent_size: int = 32
  encoder_filters: tuple[int, ...] = (32, 64, 128, 256)
  decoder_filters: tuple[int, int, int] = (128, 64, 32)
  vector_units: tuple[int, ...] = (128, 128)
  beta: float = 1.0
  free_nats: float = 0.5
  row_weights: tuple[tuple[int, int, float], ...] = ()
  vector_scale: float = 0.03

  def __post_init__(self):
    check_counts(self, "latent_size", group="vae.")
    check_positive(self, "vector_scale")
    if len(self.encoder_filters) != 4 or len(self.decoder_filters) != 3:
      raise ValueError("vae.encoder_filters takes 4 numbers and vae.decoder_filters 3.")
    if not self.vector_units or min(self.vector_units) < 1:
      raise ValueError(f"vae.vector_units must be positive numbers, got {self.vector_units}.")
    for first, end, _ in self.row_weights:
      if not 0 <= first < end:
        raise ValueError(
          "vae.row_weights are (first_row, end_row, weight) with 0 <= first_row < end_row, "
          f"got rows {first}, {end}."
        )

  def check_observation(self, observation: ObservationSpec) -> None:
    """Checks that a `VAE` of this configuration can encode an observation.

    Args:
      observation: the specification of the observation.

    Raises:
      ValueError: if an image has an unsupported size, or `row_weights` do not fit the images.
    """
    encoders.check_parts(observation)
    if self.row_weights and not observation.images:
      raise ValueError("vae.row_weights weigh rows of an image, and the observation has none.")
    for part in observation.images:
      for first, end, _ in self.row_weights:
        if end > part.shape[0]:
          raise ValueError(
            f"vae.row_weights must lie within the {part.shape[0]} rows of the image, "
            f"got rows {first}, {end}."
          )


class VAE(ObservationNetworks, keras.Model):
  """A variational autoencoder of observations with a diagonal Gaussian posterior.

  The likelihood of an image is a Gaussian whose negative logarithm is the squared error summed over
  pixels. That of a vector is a Gaussian of standard deviation `vector_scale` (S) in standardised
  units: `sum(error^2) / (2 S^2)`. S sets the precision that passes through the latent. For a linear
  model of data of unit variance the bound has its optimum where a decoded sample of the posterior
  has mean squared error S^2 and a decoded posterior mean S^4 (Lucas et al. 2019, arXiv:1911.02469,
  section 3), at a cost of `log(1 / S)` nats per dimension. With a unit-variance likelihood, which
  is usual for images, the optimum would use no latent dimension.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.1 and appendix A.1.
    Kingma & Welling 2014, arXiv:1312.6114, equation 10 (the bound and its KL in closed form).

  Attributes:
    observation: the specification of the observations that are encoded.
    latent_size: Z. Equals `config.latent_size` if there are images. For vectors alone, of D numbers
      in total, it is at most `max(4, 2 D)`: unused latents are noise to a dynamics model.
  """

  def __init__(
    self,
    config: VAEConfig = VAEConfig(),
    observation: ObservationSpec = _PAPER_OBSERVATION,
    name: str = "vae",
  ):
    """Initializes the model with new weights.

    Args:
      config: sizes and loss.
      observation: the specification of the observations.
      name: the name of the Keras model.

    Raises:
      ValueError: see `VAEConfig.check_observation`.
    """
    super().__init__(name=name)
    del self.loss  # Keras' attribute for `compile`, which would hide the method.
    config.check_observation(observation)
    self.config, self.observation = config, observation
    self.latent_size = config.latent_size
    if not observation.images:
      num_numbers = sum(part.shape[0] for part in observation.vectors)
      self.latent_size = min(config.latent_size, max(4, 2 * num_numbers))
    self.encoder = encoders.make_encoder(
      observation, config.encoder_filters, config.vector_units, 2 * self.latent_size
    )
    self.decoder = encoders.make_decoder(
      observation,
      config.encoder_filters,
      config.decoder_filters,
      config.vector_units,
      self.latent_size,
    )
    self.scalers = [encoders.VectorScaler(part.shape[0]) for part in observation.vectors]
    self.built = True

  def adapt(self, batches: Iterable[Nest]) -> None:
    """Sets the statistics that vectors are standardised with; does nothing for images alone.

    Call this once, before the first fit.

    Args:
      batches: observations, with any leading dimensions.

    Raises:
      ValueError: if there is no finite observation.
    """
    self.adapt_scalers(batches)

  def encode(self, observation: Nest) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the posterior of observations.

    Args:
      observation: of B rows, such as `uint8[B, 64, 64, 3]`.

    Returns:
      `(loc, log_scale)`, each `float32[B, Z]`; `log_scale` is clipped to [-7, 2].

    Raises:
      ValueError: if `observation` does not match `self.observation`.
    """
    inputs = encoders.one_or_all(self.to_network_units(observation))
    loc, log_scale = tf.split(self.encoder(inputs), 2, axis=-1)
    return loc, tf.clip_by_value(log_scale, -7.0, 2.0)

  def decode(self, z: tf.Tensor) -> Nest:
    """Computes the mean observations of latents.

    Args:
      z: latents `float32[B, Z]`.

    Returns:
      A nest like an observation: images `float32[B, H, W, C]` in [0, 1], vectors `float32[B, D]`
      in the environment's own units.
    """
    return self.from_network_units(self.decoded_means(z))

  def call(self, observation: Nest) -> Nest:
    """Reconstructs observations through the posterior mean.

    Args:
      observation: of B rows, see `encode`.

    Returns:
      The mean observations, see `decode`.
    """
    return self.decode(self.encode(observation)[0])

  def loss(self, observation: Nest, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the negative log-likelihood plus the weighted KL, averaged over observations.

    Args:
      observation: of B rows.
      seed: `int32[2]` for the posterior sample.

    Returns:
      The scalar loss and scalar metrics by name. `sse`: squared error summed over images,
      unweighted, if there are images. `vector_mse`: mean squared error of the vectors in
      standardised units (1 minus their R^2), if there are vectors. `kl`: nats per observation.
      `active_dimensions`: the number of latents with a mean KL above 0.1 nat.
    """
    loc, log_scale = self.encode(observation)
    z = loc + tf.exp(log_scale) * rng.normal(tf.shape(loc), seed)
    kl = kl_to_standard_normal(loc, log_scale)
    total_kl = tf.reduce_sum(kl, axis=-1)
    bounded_kl = tf.maximum(total_kl, self.config.free_nats * self.latent_size)
    nll, errors = self._likelihood(self.to_network_units(observation), self.decoded_means(z))
    return tf.reduce_mean(nll + self.config.beta * bounded_kl), {
      **{name: tf.reduce_mean(value) for name, value in errors.items()},
      "kl": tf.reduce_mean(total_kl),
      "active_dimensions": tf.reduce_sum(tf.cast(tf.reduce_mean(kl, axis=0) > 0.1, tf.float32)),
    }

  def reconstruction_errors(self, observation: Nest, z: tf.Tensor) -> dict[str, tf.Tensor]:
    """Computes the reconstruction errors of given latents, one for each observation.

    Args:
      observation: of B rows.
      z: latents `float32[B, Z]`.

    Returns:
      `sse` and `vector_mse` as `loss` defines them, each `float32[B]`.
    """
    return self._likelihood(self.to_network_units(observation), self.decoded_means(z))[1]

  def _likelihood(self, targets: list[tf.Tensor], means: list[tf.Tensor]):
    """Returns the negative log-likelihood up to a constant, `float32[B]`, and the errors."""
    nll, sse, vector_error, num_numbers = 0.0, 0.0, 0.0, 0
    for part, target, mean in zip(self.observation.parts, targets, means, strict=True):
      squared = tf.square(mean - target)
      if part.kind == "image":
        weights = self._row_weights(part.shape[0])
        nll += tf.reduce_sum(squared * weights, axis=[1, 2, 3])
        sse += tf.reduce_sum(squared, axis=[1, 2, 3])
      else:
        error = tf.reduce_sum(squared, axis=-1)
        nll += error / (2.0 * self.config.vector_scale**2)
        vector_error += error
        num_numbers += part.shape[0]
    errors = {"sse": sse} if self.observation.images else {}
    if num_numbers:
      errors["vector_mse"] = vector_error / num_numbers
    return nll, errors

  def _row_weights(self, height: int) -> tf.Tensor:
    weights = [1.0] * height
    for first, end, weight in self.config.row_weights:
      weights[first:end] = [float(weight)] * (end - first)
    return tf.reshape(tf.constant(weights, tf.float32), [1, height, 1, 1])


def kl_to_standard_normal(loc: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
  """Computes KL(N(loc, scale) || N(0, 1)) per dimension, in nats.

  Args:
    loc: means `float32[...]`.
    log_scale: logarithms of the standard deviations, `float32[...]`.

  Returns:
    `float32[...]`.

  References:
    Kingma & Welling 2014, arXiv:1312.6114, appendix B.
  """
  return 0.5 * (tf.square(loc) + tf.exp(2.0 * log_scale) - 1.0) - log_scale
