"""Agents: a world model and a policy, without state of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import AgentState, EnvSpec, Policy
from wm_tf.models.world_model import WorldModel


class Agent:
  """A world model and a policy. Its state is an argument and a result of `act`.

  Attributes:
    spec: specification of the environment that it acts in.
    world_model: maps observations to states.
    policy: maps states to actions.
  """

  def __init__(self, spec: EnvSpec, world_model: WorldModel, policy: Policy):
    """Combines a world model and a policy.

    Args:
      spec: specification of the environment.
      world_model: the world model; it takes actions of the environment's size.
      policy: the policy.

    Raises:
      ValueError: if the sizes of the actions of `world_model` and `spec` differ.
    """
    if spec.action_size != world_model.action_size:
      raise ValueError(
        f"The world model takes {world_model.action_size} action numbers but environment "
        f"{spec.name!r} has {spec.action_size}; it was trained for another environment."
      )
    self.spec, self.world_model, self.policy = spec, world_model, policy

  def initial_state(self, batch_size) -> AgentState:
    """Returns the state at the start of B episodes.

    Args:
      batch_size: B, an int or a scalar tensor.

    Returns:
      The state; all rows have `is_first`.
    """
    return AgentState(
      latent=self.world_model.initial_state(batch_size),
      prev_action=tf.zeros([batch_size, self.world_model.action_size]),
      is_first=tf.ones([batch_size], tf.bool),
      memory=self.policy.initial_memory(batch_size),
    )

  def act(
    self, observation: tf.Tensor, state: AgentState, seed: tf.Tensor, explore: bool = False
  ) -> tuple[tf.Tensor, AgentState]:
    """Chooses actions for B environments.

    Args:
      observation: as `spec.observation` says, with leading dimension B, such as
        `uint8[B, 64, 64, 3]` or a dict of arrays.
      state: the result of the previous call, or `initial_state(B)`.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      explore: whether the policy may add exploration noise.

    Returns:
      `(action float32[B, A], next state)`; actions are in [-1, 1] or one-hot groups.
    """
    observe_seed, policy_seed = rng.split(seed, 2)
    latent = self.world_model.observe(
      state.latent, state.prev_action, observation, state.is_first, observe_seed
    )
    action, memory = self.policy.act(latent, state.memory, policy_seed, explore)
    return action, AgentState(latent, action, tf.zeros_like(state.is_first), memory)


def restart(agent: Agent, state: AgentState, is_first: tf.Tensor) -> AgentState:
  """Resets the rows of an agent's state in which an episode starts.

  Args:
    agent: the agent.
    state: state of B rows.
    is_first: `bool[B]`, true in rows to reset.

  Returns:
    The state of B rows.
  """
  fresh = agent.initial_state(tf.shape(is_first)[0])

  def row(x):
    return tf.reshape(is_first, [-1] + [1] * (x.shape.rank - 1))

  return tf.nest.map_structure(lambda new, old: tf.where(row(old), new, old), fresh, state)


def step_seeds(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
  """Derives the seeds of decisions from the seeds of episodes.

  Args:
    seeds: `int64[B]`, seed of each row's episode.
    steps: `int[B]`, number of decisions before this one in the row's episode.

  Returns:
    `int32[B, 2]`.
  """
  return np.stack([np.asarray(seeds) & 0x7FFFFFFF, steps], axis=1).astype(np.int32)


class AgentActor:
  """An `Actor` that plays rows of environments with an `Agent`.

  An action depends on the row's episode seed and on the step, not on the other rows.

  Args:
    agent: the agent.
    explore: whether its policy may add exploration noise.
  """

  def __init__(self, agent: Agent, explore: bool = False):
    self._agent = agent
    self._state = None

    @tf.function(autograph=False)
    def act(observation, state, is_first, seed):
      state = restart(agent, state, is_first)
      return agent.act(observation, state, seed, explore)

    self._act = act

  def begin(self, rows: int) -> None:
    """Resets the state for a number of rows. See `Actor.begin`."""
    self._state = self._agent.initial_state(rows)
    self._steps = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Chooses the next action of every row; `infos` is not used. See `Actor.act`."""
    self._steps = np.where(is_first, 0, self._steps + 1)
    action, self._state = self._act(
      tf.nest.map_structure(tf.constant, observation),
      self._state,
      tf.constant(is_first),
      tf.constant(step_seeds(seeds, self._steps)),
    )
    return action.numpy()

  def memory(self) -> list[np.ndarray]:
    """Returns the state of all rows, for `recall`. See `RememberingActor.memory`."""
    return [*(np.asarray(x) for x in tf.nest.flatten(self._state)), self._steps.copy()]

  def recall(self, memory: Sequence[np.ndarray]) -> None:
    """Restores the state of all rows. See `RememberingActor.recall`."""
    *state, self._steps = memory
    self._state = tf.nest.pack_sequence_as(self._state, [tf.constant(x) for x in state])

  def took(self, action: np.ndarray) -> None:
    """Replaces the last actions, if others than those that `act` returned were taken.

    Args:
      action: `float32[B, A]`, the actions that were taken.
    """
    self._state = self._state._replace(prev_action=tf.constant(action))
