"""Actors that explore: they collect data before there is a controller, and along with it.

Each class is a `wm_tf.data.play.Actor`. All random numbers of an episode come from its seed, so an
episode does not depend on the row that plays it or on the order of episodes.

Continuous actions are `float32[A]` in [-1, 1]. Categorical actions are one-hot vectors for each of
`num_choices` groups, one group after another, with A the sum of `num_choices`.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class _OpenLoop:
  """Plays a sequence of actions that does not depend on observations."""

  def __init__(self, action_size: int, num_choices: Sequence[int] = ()):
    """Initializes the actor.

    Args:
      action_size: A.
      num_choices: choices in each group of a categorical action; empty for continuous actions.
    """
    if num_choices and sum(num_choices) != action_size:
      raise ValueError(f"{action_size} numbers are not groups of {tuple(num_choices)} choices.")
    self.action_size, self.num_choices = action_size, tuple(num_choices)

  def actions(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the endless actions of one episode, each `[A]`.

    Args:
      rng: the random numbers of the episode.
    """
    raise NotImplementedError

  def begin(self, rows: int) -> None:
    """Starts `rows` rows. See `Actor.begin`."""
    self._sequences: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    """Returns the next action of every row; observations are not used. See `Actor.act`."""
    for row in np.flatnonzero(is_first):
      self._sequences[row] = self.actions(_rng(self, seeds[row]))
    return np.clip([next(sequence) for sequence in self._sequences], -1, 1).astype(np.float32)


class Uniform(_OpenLoop):
  """Draws a uniform action at each decision."""

  def actions(self, rng):
    """Yields independent uniform actions. See `_OpenLoop.actions`."""
    while True:
      yield _uniform(rng, self.action_size, self.num_choices)


class Held(_OpenLoop):
  """Draws a uniform action and holds it for 1 to `max_decisions` decisions.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, on DoomTakeCover.
  """

  def __init__(self, action_size: int, max_decisions: int = 10, num_choices: Sequence[int] = ()):
    """Initializes the actor.

    Args:
      action_size: A.
      max_decisions: the largest number of decisions that an action is held for.
      num_choices: choices in each group of a categorical action; empty for continuous actions.
    """
    super().__init__(action_size, num_choices)
    self.max_decisions = max_decisions

  def actions(self, rng):
    """Yields uniform actions that are held. See `_OpenLoop.actions`."""
    while True:
      yield from _held(rng, self.action_size, self.max_decisions, self.num_choices)


class Brownian(_OpenLoop):
  """An Ornstein-Uhlenbeck process, clipped to [-1, 1], or a sticky choice.

  Before clipping, a continuous action has mean `mean` and standard deviation `scale` at every
  decision, and correlation `exp(-theta k)` with the action k decisions earlier.

  Each group of a categorical action keeps its choice with probability `exp(-theta)` at a decision.
  Otherwise it draws a uniform choice. `scale` and `mean` are not used.
  """

  def __init__(
    self,
    action_size: int,
    scale: float = 0.6,
    theta: float = 0.2,
    mean: float | Sequence[float] = 0.0,
    num_choices: Sequence[int] = (),
  ):
    """Initializes the actor.

    Args:
      action_size: A.
      scale: standard deviation.
      theta: rate at which the correlation decays, per decision.
      mean: mean; one number, or one for each dimension.
      num_choices: choices in each group of a categorical action; empty for continuous actions.
    """
    super().__init__(action_size, num_choices)
    self.scale, self.theta, self.mean = scale, theta, mean

  def actions(self, rng):
    """Yields correlated actions. See `_OpenLoop.actions`."""
    keep = math.exp(-self.theta)
    if self.num_choices:
      action = _uniform(rng, self.action_size, self.num_choices)
      while True:
        yield action
        action = _replace_groups(rng, action, 1.0 - keep, self.num_choices)
    for noise in _correlated(rng, (self.action_size,), self.scale, keep):
      yield np.asarray(self.mean) + noise


class _Disturbed:
  """Another actor whose actions are disturbed by a random sequence for each episode."""

  def __init__(self, actor, num_choices: Sequence[int] = ()):
    self._actor, self._num_choices = actor, tuple(num_choices)

  def disturbances(self, rng: np.random.Generator, action_size: int) -> Iterator[Any]:
    """Yields the endless disturbances of one episode.

    Args:
      rng: the random numbers of the episode.
      action_size: A.
    """
    raise NotImplementedError

  def disturb(self, action: np.ndarray, disturbance: Any) -> np.ndarray:
    """Returns the disturbed action, `[A]`.

    Args:
      action: the action of the other actor, `[A]`.
      disturbance: one result of `disturbances`.
    """
    raise NotImplementedError

  def begin(self, rows: int) -> None:
    """Starts `rows` rows of both actors. See `Actor.begin`."""
    self._actor = _begun(self._actor, rows)
    self._sequences: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    """Returns the disturbed actions of the other actor. See `Actor.act`."""
    meant = np.asarray(self._actor.act(observation, is_first, seeds, infos))
    for row in np.flatnonzero(is_first):
      self._sequences[row] = self.disturbances(_rng(self, seeds[row]), meant.shape[1])
    pairs = zip(meant, self._sequences, strict=True)
    action = np.stack([self.disturb(row, next(sequence)) for row, sequence in pairs])
    action = action.astype(np.float32)
    self.took(action)
    return action

  def took(self, action: np.ndarray) -> None:
    """Passes on the actions that were taken. See `AgentActor.took`."""
    if hasattr(self._actor, "took"):
      self._actor.took(action)


class Noisy(_Disturbed):
  """Adds correlated noise, or random choices, to another actor's actions.

  The noise on continuous actions is that of `Brownian` with mean zero, standard deviation `scale`
  and `correlation` between successive decisions. The sum is clipped to [-1, 1].

  Each group of a categorical action is replaced by a uniform choice with probability `scale`
  (epsilon-greedy); `correlation` is not used.
  """

  def __init__(
    self,
    actor,
    scale: float | Sequence[float],
    correlation: float = 0.8,
    num_choices: Sequence[int] = (),
  ):
    """Initializes the actor.

    Args:
      actor: the actor whose actions are disturbed.
      scale: see the class; one number, or one for each dimension of a continuous action.
      correlation: correlation of continuous noise between successive decisions.
      num_choices: choices in each group of a categorical action; empty for continuous actions.

    Raises:
      ValueError: if actions are categorical and `scale` is not a probability.
    """
    super().__init__(actor, num_choices)
    if num_choices and not (np.ndim(scale) == 0 and 0.0 <= scale <= 1.0):
      raise ValueError(
        f"scale is a probability for categorical actions: between 0 and 1, not {scale}."
      )
    self._scale, self._correlation = scale, correlation

  def disturbances(self, rng, action_size):
    """Yields noise `[A]`, or one-hot groups and groups of zeros. See `_Disturbed.disturbances`."""
    if not self._num_choices:
      yield from _correlated(rng, (action_size,), self._scale, self._correlation)
    nothing = np.zeros(action_size)
    while True:
      yield _replace_groups(rng, nothing, self._scale, self._num_choices)

  def disturb(self, action, disturbance):
    """Adds the noise, or replaces groups. See `_Disturbed.disturb`."""
    if not self._num_choices:
      return np.clip(action + disturbance, -1, 1)
    # A group of zeros keeps the action's group.
    replaced = [group.any() for group in _groups(disturbance, self._num_choices)]
    return np.where(np.repeat(replaced, self._num_choices), disturbance, action)


class Interrupted(_Disturbed):
  """Interrupts another actor by a uniform action for a few decisions.

  The data then show unusual actions in states that the actor reaches, and how it recovers.
  """

  def __init__(self, actor, rate: float, max_decisions: int = 8, num_choices: Sequence[int] = ()):
    """Initializes the actor.

    Args:
      actor: the actor that is interrupted.
      rate: probability that an interruption begins at a decision, outside of interruptions.
      max_decisions: an interruption takes the same action for 1 to `max_decisions` decisions.
      num_choices: choices in each group of a categorical action; empty for continuous actions.

    Raises:
      ValueError: if `rate` is not a probability.
    """
    if not 0.0 <= rate <= 1.0:
      raise ValueError(f"rate is a probability: between 0 and 1, not {rate}.")
    super().__init__(actor, num_choices)
    self._rate, self._max_decisions = rate, max_decisions

  def disturbances(self, rng, action_size):
    """Yields actions of interruptions, and None outside of them. See `_Disturbed.disturbances`."""
    while True:
      if rng.random() < self._rate:
        yield from _held(rng, action_size, self._max_decisions, self._num_choices)
      else:
        yield None

  def disturb(self, action, disturbance):
    """Returns the interruption's action if there is one. See `_Disturbed.disturb`."""
    return action if disturbance is None else disturbance


class Scripted:
  """An environment's scripted policy (`wm_tf.envs.make_heuristic`), copied for each episode.

  It may read the simulator (`info["privileged"]`), so reports state its share of the data together
  with the results.
  """

  def __init__(self, heuristic):
    """Creates the policy.

    Args:
      heuristic: a scripted policy with `act`; see `wm_tf.envs.make_heuristic`.
    """
    self._heuristic = heuristic

  def begin(self, rows: int) -> None:
    """Starts `rows` rows. See `Actor.begin`."""
    self._rows: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    """Returns the actions of the scripted policy. See `Actor.act`."""
    for row in np.flatnonzero(is_first):
      self._rows[row] = copy.deepcopy(self._heuristic), _rng(self, seeds[row])
    actions = [
      heuristic.act(_row(observation, row), infos[row : row + 1], rng)
      for row, (heuristic, rng) in enumerate(self._rows)
    ]
    return np.clip(np.concatenate(actions), -1, 1).astype(np.float32)


class Mixture:
  """Several actors, one of which plays each episode, chosen by the episode's seed.

  Pass `choice` as the `policy_name` of a collection to record the choices.
  """

  def __init__(self, actors: Mapping[str, Any], weights: Mapping[str, float] | None = None):
    """Initializes the mixture.

    Args:
      actors: actors by name.
      weights: relative probabilities by name; equal ones if None.

    Raises:
      ValueError: if the names differ, a weight is negative, or no weight is positive.
    """
    weights = weights or dict.fromkeys(actors, 1.0)
    if set(weights) != set(actors) or not sum(weights.values()) > 0 or min(weights.values()) < 0:
      raise ValueError(
        f"Mixture of {sorted(actors)}: weights {weights} must name the same, and be positive."
      )
    self._actors = dict(actors)
    self._weights = np.array([weights[name] for name in self._actors], np.float64)

  def choice(self, seed: int) -> str:
    """Returns the name of the actor that plays an episode.

    Args:
      seed: the seed of the episode.
    """
    p = self._weights / self._weights.sum()
    return str(_rng(self, seed).choice(list(self._actors), p=p))

  def begin(self, rows: int) -> None:
    """Starts `rows` rows of every actor. See `Actor.begin`."""
    self._actors = {name: _begun(actor, rows) for name, actor in self._actors.items()}
    self._chosen = np.full(rows, "", object)

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    """Returns the actions of each row's actor. See `Actor.act`."""
    for row in np.flatnonzero(is_first):
      self._chosen[row] = self.choice(seeds[row])
    # An actor gets all rows, so that its batch size is constant. Rows of other actors are marked as
    # the beginning of an episode at each decision. An actor without a row is not called.
    actions = {
      name: self._actors[name].act(observation, is_first | (self._chosen != name), seeds, infos)
      for name in dict.fromkeys(self._chosen)
    }
    return np.stack([actions[name][row] for row, name in enumerate(self._chosen)])


def _rng(actor, seed) -> np.random.Generator:
  """Returns the random generator of an episode, which also depends on the actor's class."""
  return np.random.default_rng([int(seed), zlib.crc32(type(actor).__name__.encode())])


def _begun(actor, rows: int):
  actor = copy.copy(actor)
  actor.begin(rows)
  return actor


def _row(observation, row: int):
  """Returns one row, with its leading axis, of an array or a dict of arrays."""
  if isinstance(observation, Mapping):
    return {name: value[row : row + 1] for name, value in observation.items()}
  return observation[row : row + 1]


def _groups(action: np.ndarray, num_choices: Sequence[int]) -> list[np.ndarray]:
  return np.split(action, np.cumsum(num_choices)[:-1])


def _uniform(rng: np.random.Generator, size: int, num_choices: Sequence[int]) -> np.ndarray:
  """Draws an action `[size]`: uniform in [-1, 1], or a uniform choice in each group."""
  if not num_choices:
    return rng.uniform(-1, 1, size)
  return _replace_groups(rng, np.zeros(size), 1.0, num_choices)


def _replace_groups(
  rng: np.random.Generator, action: np.ndarray, probability: float, num_choices: Sequence[int]
) -> np.ndarray:
  """Returns a copy in which each group is replaced by a uniform choice with a given probability."""
  groups = []
  for group, size in zip(_groups(action, num_choices), num_choices, strict=True):
    replace, choice = rng.random() < probability, rng.integers(size)
    groups.append(np.eye(size)[choice] if replace else group)
  return np.concatenate(groups)


def _held(
  rng: np.random.Generator, size: int, max_decisions: int, num_choices: Sequence[int]
) -> Iterator[np.ndarray]:
  """Yields one uniform action `[size]`, for 1 to `max_decisions` decisions."""
  action = _uniform(rng, size, num_choices)
  for _ in range(rng.integers(1, max_decisions + 1)):
    yield action


def _correlated(
  rng: np.random.Generator, shape: tuple[int, ...], scale: float | Sequence[float], rho: float
) -> Iterator[np.ndarray]:
  """Yields a stationary Gaussian process of standard deviation `scale`, correlation `rho ** k`."""
  value = rng.standard_normal(shape)
  while True:
    yield np.asarray(scale) * value
    value = rho * value + math.sqrt(1 - rho * rho) * rng.standard_normal(shape)
