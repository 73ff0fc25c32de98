"""The controller of the World Models paper: one linear layer on the world model's features."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf import actions
from wm_tf.models.world_model import WorldModel


class LinearController(tf.Module):
  """`action = tanh(W [basis(features), 1])`, or the largest of these logits in each group.

  The basis is a fixed affine map `(features - loc) @ matrix` that `fit_basis` fits to real
  features. It whitens the recurrent state, so that one search step size suits every parameter. It
  can keep only the leading principal components, so that a search can learn a full covariance in
  few generations. The controller is linear in the features.

  Attributes:
    basis_size: G.
    action_size: A.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.3 (equation 1).
  """

  def __init__(self, world_model: WorldModel, basis_size: int | None = None, name="controller"):
    """Makes a controller with zero weights and an identity basis.

    Args:
      world_model: gives the features and the kind of action.
      basis_size: G; the number of features F if None.
      name: module name.
    """
    super().__init__(name=name)
    self._world_model = world_model
    size = world_model.feature_size
    self.basis_size = size if basis_size is None else basis_size
    self.action_size = world_model.action_size
    self.loc = tf.Variable(tf.zeros([size]), trainable=False, name="basis_loc")
    self.matrix = tf.Variable(tf.eye(size, self.basis_size), trainable=False, name="basis_matrix")
    self.parameters = tf.Variable(tf.zeros([self.num_parameters]), name="parameters")

  @property
  def num_parameters(self) -> int:
    """D = (G + 1) A."""
    return (self.basis_size + 1) * self.action_size

  def basis(self, features: tf.Tensor) -> tf.Tensor:
    """Maps features to the basis.

    Args:
      features: `float32[..., F]`.

    Returns:
      `float32[..., G]`.
    """
    return tf.linalg.matmul(features - self.loc, self.matrix)

  def folded(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the linear maps from features to outputs of N controllers.

    Args:
      parameters: `float32[N, D]`.

    Returns:
      Weights `float32[N, F, A]` and biases `float32[N, 1, A]`.
    """
    rows = tf.reshape(parameters, [-1, self.basis_size + 1, self.action_size])
    weights = tf.linalg.matmul(self.matrix, rows[:, :-1])
    return weights, rows[:, -1:] - tf.linalg.matmul(self.loc[tf.newaxis], weights)

  def actions(self, parameters: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """Computes the actions of N controllers.

    Args:
      parameters: `float32[N, D]`.
      features: `float32[N, R, F]`, R rows for each controller.

    Returns:
      `float32[N, R, A]`, in [-1, 1] or one-hot.
    """
    return self.actions_of(self.folded(parameters), features)

  def actions_of(self, folded: tuple[tf.Tensor, tf.Tensor], features: tf.Tensor) -> tf.Tensor:
    """Computes the actions of N controllers from the result of `folded`.

    Args:
      folded: weights `float32[N, F, A]` and biases `float32[N, 1, A]`.
      features: `float32[N, R, F]`.

    Returns:
      `float32[N, R, A]`, in [-1, 1] or one-hot.
    """
    weights, bias = folded
    raw = tf.linalg.matmul(features, weights) + bias
    return actions.greedy(raw, self._world_model.num_choices)

  def initial_memory(self, batch_size):
    """Returns `()`, because the controller has no memory. See `Policy.initial_memory`."""
    return ()

  def act(self, state, memory, seed=None, explore: bool = False):
    """Returns `(action float32[B, A], memory)`; `seed` and `explore` are not used.

    See `Policy.act`.
    """
    features = self._world_model.features(state)
    return self.actions(self.parameters[tf.newaxis], features[tf.newaxis])[0], memory


def fit_basis(features: np.ndarray, only_centred: np.ndarray, num_components: int | None):
  """Fits a whitening basis to real features.

  Args:
    features: `float32[M, F]`.
    only_centred: `bool[F]`, the Z columns that the model has already scaled; see
      `WorldModel.only_centred_features`. The basis subtracts their mean and does not scale them.
      Dividing by the spread of posterior means would amplify latents that the encoder does not use,
      which are noise in the dream but not in reality.
    num_components: number of leading principal components of the other columns that are kept,
      whitened; if None, all other columns are kept and standardised separately.

  Returns:
    `(loc float32[F], matrix float32[F, G])` with G = Z + num_components; G = F if that is None.

  Raises:
    ValueError: if a feature is not finite, or there are fewer rows or columns than components.
  """
  features, only_centred = np.asarray(features, np.float64), np.asarray(only_centred, bool)
  if not np.isfinite(features).all():
    raise ValueError("Some features given to fit_basis are NaN or infinite.")
  loc = features.mean(0)
  scale = np.maximum(features.std(0), 1e-3)
  scale[only_centred] = 1.0
  if num_components is None:
    return loc.astype(np.float32), np.diag(1.0 / scale).astype(np.float32)
  others = np.ascontiguousarray(features[:, ~only_centred]) - loc[~only_centred]
  if num_components > min(others.shape):
    raise ValueError(
      f"{num_components} principal components asked of {others.shape[0]} rows of "
      f"{others.shape[1]} features; ask for fewer or give more data."
    )
  variance, vectors = np.linalg.eigh(others.T @ others / len(others))
  leading = slice(None, -num_components - 1, -1)
  # The sign of an eigenvector is arbitrary; fixing it keeps refits comparable.
  vectors = vectors[:, leading] * np.sign(vectors[:, leading].sum(0) + 1e-12)
  num_centred = int(only_centred.sum())
  matrix = np.zeros((features.shape[1], num_centred + num_components))
  matrix[only_centred, np.arange(num_centred)] = 1.0
  matrix[~only_centred, num_centred:] = vectors / np.sqrt(np.maximum(variance[leading], 1e-6))
  return loc.astype(np.float32), matrix.astype(np.float32)
