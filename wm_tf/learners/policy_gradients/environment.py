"""The dream as a TF-Agents environment.

TF-Agents is an extra: `pip install "wm_tf[agents]"`. This module can be imported without it, but
making an environment then raises `MissingTFAgentsError`.
"""

from __future__ import annotations

import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.learners.policy_gradients.auto_reset import Dream, Dreams
from wm_tf.models.world_model import WorldModel, to_uint8

try:
  from tf_agents.environments.tf_environment import TFEnvironment
  from tf_agents.specs import BoundedTensorSpec, TensorSpec
  from tf_agents.trajectories import time_step as ts
except ImportError as error:
  _missing: ImportError | None = error
  TFEnvironment = object
else:
  _missing = None


class MissingTFAgentsError(ImportError):
  """TF-Agents is required but not installed."""


def require_tf_agents() -> None:
  """Checks that TF-Agents is installed.

  Raises:
    MissingTFAgentsError: if it is not; the message tells how to install it.
  """
  if _missing is not None:
    raise MissingTFAgentsError(
      f'Policy gradients need TF-Agents ({_missing}): pip install "wm_tf[agents]", for Python 3.11 '
      "or older. The methods es and actor_critic need nothing more."
    ) from _missing


def make_time_step_spec(world_model: WorldModel) -> ts.TimeStep:
  """Makes the specification of one step of one dream.

  Args:
    world_model: gives the number of features F.

  Returns:
    A `TimeStep` of specifications, with observations `float32[F]`.
  """
  return ts.time_step_spec(TensorSpec([world_model.feature_size], tf.float32, "features"))


class WorldModelEnvironment(TFEnvironment):
  """Dreams as a batched TF-Agents environment that runs in TensorFlow.

  The observations are the world model's features. A dream that terminates ends with discount 0. A
  dream that reaches the horizon ends with discount 1, so that its return can be bootstrapped.
  Categorical actions are made one-hot: the largest number of each group is chosen.
  """

  def __init__(
    self,
    world_model: WorldModel,
    starts: Nest,
    batch_size: int = 64,
    horizon: int = 20,
    *,
    temperature: float = 1.0,
    disagreement_penalty: float = 0.0,
    seed: int = 0,
  ):
    """Makes an environment and begins its dreams.

    Args:
      world_model: the world model.
      starts: M >= 1 real states that dreams begin from; see `imagination.sample_states`.
      batch_size: B.
      horizon: largest number of decisions in a dream.
      temperature: temperature of the dreams.
      disagreement_penalty: weight of the ensemble's unfamiliarity, subtracted from the reward.
      seed: seed of all random numbers.

    Raises:
      MissingTFAgentsError: if TF-Agents is not installed.
      ValueError: if there is no state to start from.
    """
    require_tf_agents()
    lowest = 0.0 if world_model.num_choices else -1.0
    action = BoundedTensorSpec([world_model.action_size], tf.float32, lowest, 1.0, "action")
    super().__init__(make_time_step_spec(world_model), action, batch_size)
    self._starts = tf.nest.map_structure(tf.convert_to_tensor, starts)
    self._num_starts = tf.nest.flatten(self._starts)[0].shape[0]
    if not self._num_starts:
      raise ValueError("WorldModelEnvironment was given no state to start from.")
    self._world_model, self._seed = world_model, rng.make_seed(seed)
    self._dreams = Dreams(
      world_model,
      batch_size,
      horizon,
      temperature=temperature,
      disagreement_penalty=disagreement_penalty,
    )
    self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
    first = self._dreams.begin(self._starts, self._draw().row)
    self._dream = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), first)
    self._begin_all = tf.function(self._begin_all, autograph=False)
    self._step_all = tf.function(self._step_all, autograph=False)

  def render(self) -> tf.Tensor:
    """Decodes the current states of the dreams.

    Returns:
      The first image of the observation, `uint8[B, H, W, C]`; the decoded observation if it has no
      image.
    """
    state = tf.nest.map_structure(tf.identity, self._dream.state)
    decoded = self._world_model.decode(state)
    images = [x for x in tf.nest.flatten(decoded) if x.shape.rank == 4]
    return to_uint8(images[0]) if images else decoded

  def _current_time_step(self):
    return self._time_step(tf.nest.map_structure(tf.identity, self._dream))

  def _reset(self):
    return self._begin_all()

  def _step(self, action):
    action = tf.convert_to_tensor(action, tf.float32)
    shape = [self.batch_size, self._world_model.action_size]
    if not action.shape.is_compatible_with(shape):
      raise ValueError(f"An action must have the shape {shape}, not {action.shape.as_list()}.")
    return self._step_all(action)

  def _begin_all(self):
    return self._keep(self._dreams.begin(self._starts, self._draw().row))

  def _step_all(self, action):
    dream = tf.nest.map_structure(tf.identity, self._dream)
    return self._keep(self._dreams.step(dream, action, self._starts, self._draw()))

  def _draw(self):
    seed = rng.fold_in(self._seed, self._count.assign_add(1))
    randomness = self._dreams.draw(self._num_starts, 1, seed)
    return tf.nest.map_structure(lambda x: x[:, 0], randomness)

  def _keep(self, dream: Dream):
    tf.nest.map_structure(lambda variable, x: variable.assign(x), self._dream, dream)
    return self._time_step(dream)

  def _time_step(self, dream: Dream):
    features = self._world_model.features(dream.state)
    return ts.TimeStep(dream.step_type, dream.reward, dream.discount, features)
