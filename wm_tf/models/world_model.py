"""The seam between a learned dynamics and all that uses it: `observe`, `imagine`, `features`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from wm_tf.core import Batch, Nest, Prediction


def to_uint8(frames: tf.Tensor) -> tf.Tensor:
  """Decoded `float32` frames, of which a little may lie outside [0, 1], to `uint8`."""
  return tf.cast(tf.round(255.0 * tf.clip_by_value(frames, 0.0, 1.0)), tf.uint8)


class WorldModel(keras.Model):
  """A state-space model of the world with an opaque state.

  `observe` is the posterior: it sees a frame. `imagine` is the prior: it sees only an action.
  Controllers, planners, evaluation and export know nothing more, so that a dynamics family is one
  subclass of this.

  Attributes:
    latent_size: Z.
    feature_size: F, the width of `features`.
    action_size: A.
    usual_disagreement: what of a disagreement the data themselves show; 0 without an ensemble.
  """

  latent_size: int
  feature_size: int
  action_size: int
  usual_disagreement: Any = 0.0

  def __init__(self, name: str):
    super().__init__(name=name)
    del self.loss  # Keras' attribute for `compile`, which would hide the method.

  def initial_state(self, batch_size) -> Nest:
    """Returns the state before anything was seen; `batch_size` may be a tensor."""
    raise NotImplementedError

  def features(self, state: Nest) -> tf.Tensor:
    """Returns `float32[B, F]`: what a controller sees of a state."""
    raise NotImplementedError

  def decode(self, state: Nest) -> tf.Tensor:
    """Returns mean frames `float32[B, 64, 64, 3]` in [0, 1]."""
    raise NotImplementedError

  def observe(
    self, state: Nest, prev_action: tf.Tensor, observation: tf.Tensor, is_first: tf.Tensor, seed
  ) -> Nest:
    """Moves the state along a real step.

    Args:
      state: of B rows.
      prev_action: `float32[B, A]`, the action that led to `observation`.
      observation: `uint8[B, 64, 64, 3]`, or `float32[B, 2 Z]` cached posteriors.
      is_first: `bool[B]`; where true, `state` and `prev_action` are ignored.
      seed: `int32[2]` or `int32[B, 2]`.
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
    """Draws all the noise of `num_steps` imagined steps: a nest of `float32[B, num_steps, ...]`.

    Hoisting it out of the rollout lets many candidates share it: common random numbers, and the
    dream's largest cost paid once.
    """
    raise NotImplementedError

  def imagine_with_noise(
    self, state: Nest, action: tf.Tensor, noise: Nest, temperature: Any = 1.0
  ) -> Prediction:
    """As `imagine`, with one step of `draw_noise` (a nest of `float32[B, ...]`) for a seed."""
    raise NotImplementedError

  def imaginer(self) -> Callable[..., Prediction]:
    """Returns `imagine_with_noise` with all done that need be done only once for many steps.

    A rollout asks for it before its loop, while the weights are what they are.
    """
    return self.imagine_with_noise

  def imagine(
    self, state: Nest, action: tf.Tensor, seed: tf.Tensor, temperature: Any = 1.0
  ) -> Prediction:
    """Moves the state along an imagined step.

    Args:
      state: of B rows.
      action: `float32[B, A]` in [-1, 1].
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      temperature: scalar or `float32[B]`; 0 is the most likely future, above 1 a more uncertain
        one (Ha & Schmidhuber 2018, section 4.3).
    """
    noise = self.draw_noise(tf.shape(action)[0], 1, seed)
    return self.imagine_with_noise(
      state, action, tf.nest.map_structure(lambda x: x[:, 0], noise), temperature
    )

  def unfamiliarity(self, disagreement: tf.Tensor) -> tf.Tensor:
    """What of a `Prediction`'s disagreement lies above the usual: what penalties are laid on."""
    return tf.nn.relu(disagreement - self.usual_disagreement)

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns the scalar training loss and named scalar metrics."""
    raise NotImplementedError
