"""The seam between a learned dynamics and everything that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Embedded, Nest, Prediction


def to_uint8(frames: tf.Tensor) -> tf.Tensor:
  """Converts decoded frames `float32` to `uint8`; values outside [0, 1] are clipped."""
  return tf.cast(tf.round(255.0 * tf.clip_by_value(frames, 0.0, 1.0)), tf.uint8)


class WorldModel(keras.Model):
  """A state-space model of an environment with an opaque state.

  `observe` is the posterior: it sees an observation. `imagine` is the prior: it sees only an
  action. Policies, planners, learners, evaluation and export use nothing but the methods and
  attributes of this class, so a family of dynamics is one subclass.

  An observation is what `ObservationSpec` says: one array, or a dict of arrays by name. Methods
  that take one also take an `Embedded`. The two are told apart by type.

  Attributes:
    latent_size: Z.
    feature_size: F, the width of `features`.
    action_size: A.
    num_choices: the number of choices in each group of a categorical action (one-hot groups, one
      after another, of A columns in total); empty if actions are continuous.
    usual_disagreement: the level of disagreement found on the data; 0 without an ensemble.
  """

  latent_size: int
  feature_size: int
  action_size: int
  num_choices: tuple[int, ...] = ()
  usual_disagreement: Any = 0.0

  def __init__(self, name: str):
    super().__init__(name=name)
    del self.loss  # Keras' attribute for `compile`, which would hide the method.

  def initial_state(self, batch_size) -> Nest:
    """Returns the state before anything was observed.

    Args:
      batch_size: B, an int or a scalar tensor.
    """
    raise NotImplementedError

  def features(self, state: Nest) -> tf.Tensor:
    """Returns what a policy sees of a state, `float32[..., F]`."""
    raise NotImplementedError

  def only_centred_features(self) -> np.ndarray:
    """Returns which features have been scaled by the model, `bool[F]`.

    A policy that standardises its inputs subtracts the mean of these and does not divide by their
    standard deviation.
    """
    return np.zeros(self.feature_size, bool)

  def diagnostic_latent(self, state: Nest) -> tf.Tensor:
    """Returns the latents in standardised units that open-loop errors are measured on.

    Args:
      state: with any leading dimensions.

    Returns:
      `float32[..., D]`.
    """
    raise NotImplementedError

  def decode(self, state: Nest) -> Nest:
    """Returns the mean observation of a state.

    Args:
      state: of B rows.

    Returns:
      A nest like an observation: images `float32[B, H, W, C]` in [0, 1], vectors `float32[B, D]`
      in the environment's own units.
    """
    raise NotImplementedError

  def embed(self, observation: Nest) -> Embedded:
    """Computes what `observe` and `loss` need of observations.

    Args:
      observation: with any leading dimensions, such as [B] or [B, T].

    Returns:
      `Embedded` with a `float32[..., E]`. An `Embedded` is returned as it is.
    """
    raise NotImplementedError

  def observe(
    self, state: Nest, prev_action: tf.Tensor, observation: Nest, is_first: tf.Tensor, seed
  ) -> Nest:
    """Moves the state along a real step.

    Args:
      state: of B rows.
      prev_action: `float32[B, A]`, the action that led to `observation`.
      observation: of B rows, or `Embedded`.
      is_first: `bool[B]`; where true, `state` and `prev_action` are ignored.
      seed: `int32[2]` or `int32[B, 2]`.

    Returns:
      The next state.
    """
    raise NotImplementedError

  def encode_outputs(self, observation: Nest) -> dict[str, tf.Tensor]:
    """What the signature `encode` of an exported model answers.

    Args:
      observation: `[B, ...]`.

    Returns:
      Tensors `[B, ...]` by name; empty for a model that has no encoder worth exporting.
    """
    return {}

  def draw_noise(self, batch_size, num_steps, seed) -> Nest:
    """Draws all the noise of `num_steps` imagined steps.

    Drawing it before a rollout lets many candidates share it, which lowers the variance of their
    comparison and saves most of the cost of random numbers.

    Args:
      batch_size: B, an int or a scalar tensor.
      num_steps: an int or a scalar tensor.
      seed: `int32[2]` or `int32[B, 2]`.

    Returns:
      A nest of `float32[B, num_steps, ...]`.
    """
    raise NotImplementedError

  def imagine_with_noise(
    self, state: Nest, action: tf.Tensor, noise: Nest, temperature: Any = 1.0
  ) -> Prediction:
    """Does what `imagine` does, with given noise.

    Args:
      state: of B rows.
      action: `float32[B, A]`.
      noise: one step of `draw_noise`, a nest of `float32[B, ...]`.
      temperature: scalar or `float32[B]`.
    """
    raise NotImplementedError

  def imaginer(self) -> Callable[..., Prediction]:
    """Returns a function that computes `imagine_with_noise`, prepared for many steps.

    A rollout calls this once before its loop. The function holds the weights as they are now.
    """
    return self.imagine_with_noise

  def imagine(
    self, state: Nest, action: tf.Tensor, seed: tf.Tensor, temperature: Any = 1.0
  ) -> Prediction:
    """Moves the state along an imagined step.

    Args:
      state: of B rows.
      action: `float32[B, A]`, in [-1, 1] or one-hot.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      temperature: scalar or `float32[B]`; 0 is the most likely future, above 1 a more uncertain
        one (Ha & Schmidhuber 2018, section 4.3).
    """
    noise = self.draw_noise(tf.shape(action)[0], 1, seed)
    return self.imagine_with_noise(
      state, action, tf.nest.map_structure(lambda x: x[:, 0], noise), temperature
    )

  def unfamiliarity(self, disagreement: tf.Tensor) -> tf.Tensor:
    """Returns how far a `Prediction`'s disagreement is above the usual; penalties use this."""
    return tf.nn.relu(disagreement - self.usual_disagreement)

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the scalar training loss and named scalar metrics."""
    raise NotImplementedError
