"""The imagined step of an `Ensemble`, optimised for a rollout of many steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from wm_tf.core import Prediction
from wm_tf.models.kernels import mixture


def make_ensemble_step(model) -> Callable[..., Prediction]:
  """Makes a function that computes `Ensemble.imagine_with_noise` faster.

  The weights of the mixtures are ordered by component. If the temperature is statically known to
  be positive, the function samples from the mixture of the chosen member only.

  Args:
    model: an `Ensemble`. The function holds a copy of the mixtures' current weights.

  Returns:
    A function with the arguments and result of `Ensemble.imagine_with_noise`.
  """
  head, num_mixtures = model.mixture, model.config.num_mixtures
  weights = mixture.by_component(head)

  def imagine(state, action, noise, temperature=1.0) -> Prediction:
    choice, normal, member = noise

    def sample_of(projected):
      components = mixture.split_components(projected, num_mixtures)
      return mixture.sample(head.kind, components, choice, normal, temperature)

    h, c, seen = model.step(state, action)
    projected = mixture.project(seen, weights)
    number = tf.get_static_value(temperature)
    if number is not None and np.all(number > 0.0):
      share = model.member_shares(member)
      sample = sample_of([blend(x, share) for x in projected])
    else:
      sample = blend(sample_of(projected), model.member_shares(member, temperature))
    return model.prediction(state, sample, h, c, mixture.mean(projected, num_mixtures))

  return imagine


def blend(x: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
  """Computes the weighted sum over members.

  Args:
    x: `float32[M, B, ...]`.
    share: the weight of each member, `float32[M, B]`.

  Returns:
    `float32[B, ...]`.
  """
  share = tf.reshape(share, [*share.shape[:1], -1] + [1] * (x.shape.rank - 2))
  return tf.reduce_sum(share * x, axis=0)
