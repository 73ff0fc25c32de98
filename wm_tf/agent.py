"""An agent: a world model plus a policy, with no state of its own."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import AgentState, EnvSpec, Policy
from wm_tf.models.world_model import WorldModel


class Agent:
  """What collects data, is evaluated and is exported: state goes in and comes out.

  Attributes:
    spec: the environment it acts in.
    world_model: turns frames into states.
    policy: turns states into actions.
  """

  def __init__(self, spec: EnvSpec, world_model: WorldModel, policy: Policy):
    if spec.action_size != world_model.action_size:
      raise ValueError(
        f"The world model takes {world_model.action_size} action numbers but environment "
        f"{spec.name!r} has {spec.action_size}; it was trained for another environment."
      )
    self.spec, self.world_model, self.policy = spec, world_model, policy

  def initial_state(self, batch_size) -> AgentState:
    """Returns the state for `batch_size` fresh episodes; `batch_size` may be a tensor."""
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
      observation: `uint8[B, 64, 64, 3]`.
      state: what the previous call returned, or `initial_state(B)`.
      seed: `int32[2]`, or `int32[B, 2]` with one seed per row.
      explore: whether the policy may add exploration of its own.

    Returns:
      `(action float32[B, A] in [-1, 1], next state)`.
    """
    observe_seed, policy_seed = rng.split(seed, 2)
    latent = self.world_model.observe(
      state.latent, state.prev_action, observation, state.is_first, observe_seed
    )
    action, memory = self.policy.act(latent, state.memory, policy_seed, explore)
    return action, AgentState(latent, action, tf.zeros_like(state.is_first), memory)


def restart(agent: Agent, state: AgentState, is_first: tf.Tensor) -> AgentState:
  """The state in which the rows that begin an episode (`bool[B]`) have forgotten the last one."""
  fresh = agent.initial_state(tf.shape(is_first)[0])

  def row(x):
    return tf.reshape(is_first, [-1] + [1] * (x.shape.rank - 1))

  return tf.nest.map_structure(lambda new, old: tf.where(row(old), new, old), fresh, state)


def step_seeds(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
  """Seeds `int32[B, 2]` of rows' decisions, from the seeds of their episodes and their steps."""
  return np.stack([np.asarray(seeds) & 0x7FFFFFFF, steps], axis=1).astype(np.int32)


class AgentActor:
  """Drives rows of environments with an `Agent`: the `Actor` that collection and evaluation take.

  An action depends on the row's episode seed and on the step, not on the other rows.
  """

  def __init__(self, agent: Agent, explore: bool = False):
    self._agent = agent
    self._state = None

    @tf.function
    def act(observation, state, is_first, seed):
      state = restart(agent, state, is_first)
      return agent.act(observation, state, seed, explore)

    self._act = act

  def begin(self, rows: int) -> None:
    """Forgets everything and makes ready for `rows` environments."""
    self._state = self._agent.initial_state(rows)
    self._steps = np.zeros(rows, np.int64)

  def act(self, observation, is_first, seeds, infos=None) -> np.ndarray:
    """Actions `float32[B, A]`; `seeds` are the rows' episode seeds `int64[B]`."""
    self._steps = np.where(is_first, 0, self._steps + 1)
    action, self._state = self._act(
      tf.nest.map_structure(tf.constant, observation),
      self._state,
      tf.constant(is_first),
      tf.constant(step_seeds(seeds, self._steps)),
    )
    return action.numpy()

  def took(self, action: np.ndarray) -> None:
    """Says that the rows took `action` (`float32[B, A]`) instead of what `act` returned."""
    self._state = self._state._replace(prev_action=tf.constant(action))
