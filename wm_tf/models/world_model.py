"""The interface between a learned dynamics model and the code that uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Batch, Embedded, Nest, Prediction


def to_uint8(frames: tf.Tensor) -> tf.Tensor:
  """Converts decoded frames to `uint8`.

  Args:
    frames: `float32[...]`; values outside [0, 1] are clipped.

  Returns:
    `uint8[...]`.
  """
  return tf.cast(tf.round(255.0 * tf.clip_by_value(frames, 0.0, 1.0)), tf.uint8)


class WorldModel(keras.Model):
  """A state-space model of an environment with an opaque state.

  `observe` computes the posterior, given an observation. `imagine` computes the prior, given only
  an action. Policies, planners, learners, evaluation and export use only the methods and
  attributes of this class, so a new kind of dynamics is one subclass.

  `ObservationSpec` describes an observation: one array, or a dict of arrays by name. Methods that
  take an observation also take an `Embedded` and tell the two apart by type.

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
    """Initializes the Keras model.

    Args:
      name: the name of the Keras model.
    """
    super().__init__(name=name)
    del self.loss  # Keras' attribute for `compile`, which would hide the method.

  def initial_state(self, batch_size) -> Nest:
    """Returns the state before the first observation.

    Args:
      batch_size: B, an int or a scalar tensor.

    Returns:
      A state of B rows.
    """
    raise NotImplementedError

  def features(self, state: Nest) -> tf.Tensor:
    """Returns the features of a state that policies take as inputs.

    Args:
      state: with any leading dimensions.

    Returns:
      `float32[..., F]`.
    """
    raise NotImplementedError

  def only_centred_features(self) -> np.ndarray:
    """Returns which features the model has already scaled.

    A policy that standardises its inputs subtracts the mean of these features and does not divide
    them by their standard deviation.

    Returns:
      `bool[F]`.
    """
    return np.zeros(self.feature_size, bool)

  def diagnostic_latent(self, state: Nest) -> tf.Tensor:
    """Returns the latents, in standardised units, that open-loop errors are measured on.

    Args:
      state: with any leading dimensions.

    Returns:
      `float32[..., D]`.
    """
    raise NotImplementedError

  def decode(self, state: Nest) -> Nest:
    """Computes the mean observation of a state.

    Args:
      state: of B rows.

    Returns:
      A nest like an observation: images `float32[B, H, W, C]` in [0, 1], vectors `float32[B, D]`
      in the environment's own units.
    """
    raise NotImplementedError

  def embed(self, observation: Nest) -> Embedded:
    """Precomputes the part of `observe` and `loss` that depends on observations alone.

    Args:
      observation: with any leading dimensions, such as [B] or [B, T].

    Returns:
      An `Embedded` that holds `float32[..., E]`. An `Embedded` argument is returned unchanged.
    """
    raise NotImplementedError

  def observe(
    self, state: Nest, prev_action: tf.Tensor, observation: Nest, is_first: tf.Tensor, seed
  ) -> Nest:
    """Updates the state with one real step.

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
    """Computes the outputs of an exported model's signature `encode`.

    Args:
      observation: of B rows.

    Returns:
      Tensors `[B, ...]` by name; empty for a model without an encoder to export.
    """
    return {}

  def draw_noise(self, batch_size, num_steps, seed) -> Nest:
    """Draws the noise of `num_steps` imagined steps.

    If candidates share noise that was drawn before the rollout, their comparison has less variance
    and fewer random numbers are drawn.

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
    """Predicts one imagined step from given noise; see `imagine`.

    Args:
      state: of B rows.
      action: `float32[B, A]`.
      noise: one step of `draw_noise`, a nest of `float32[B, ...]`.
      temperature: scalar or `float32[B]`.

    Returns:
      The `Prediction` of B rows.
    """
    raise NotImplementedError

  def imaginer(self) -> Callable[..., Prediction]:
    """Returns a function that computes `imagine_with_noise`, optimised for many steps.

    A rollout calls this once before its loop.

    Returns:
      A function with the arguments and result of `imagine_with_noise`. It may hold a copy of the
      current weights, so it must not be used after an update of the weights.
    """
    return self.imagine_with_noise

  def imagine(
    self, state: Nest, action: tf.Tensor, seed: tf.Tensor, temperature: Any = 1.0
  ) -> Prediction:
    """Predicts one imagined step.

    Args:
      state: of B rows.
      action: `float32[B, A]`, in [-1, 1] or one-hot.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      temperature: scalar or `float32[B]`; 0 gives the most likely future, above 1 a more
        uncertain one (Ha & Schmidhuber 2018, section 4.3).

    Returns:
      The `Prediction` of B rows.
    """
    noise = self.draw_noise(tf.shape(action)[0], 1, seed)
    return self.imagine_with_noise(
      state, action, tf.nest.map_structure(lambda x: x[:, 0], noise), temperature
    )

  def unfamiliarity(self, disagreement: tf.Tensor) -> tf.Tensor:
    """Returns how far disagreement exceeds `usual_disagreement`; penalties are based on it.

    Args:
      disagreement: `float32[...]`, of a `Prediction`.

    Returns:
      `max(0, disagreement - usual_disagreement)`, `float32[...]`.
    """
    return tf.nn.relu(disagreement - self.usual_disagreement)

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the training loss.

    Args:
      batch: sequences in arrival alignment, of observations or `Embedded`.
      seed: `int32[2]`.

    Returns:
      The scalar loss and scalar metrics by name.
    """
    raise NotImplementedError
