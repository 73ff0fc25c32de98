"""Actors that explore: what plays the environment before, and beside, what has been learned.

All are `wm_tf.data.collect.Actor`s. Every random number comes from the seed of the episode that it
is drawn for, so an episode is the same whichever row plays it, and when.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class _OpenLoop:
  """Plays, in each episode, a sequence of actions that does not depend on what happens."""

  def __init__(self, action_size: int):
    self.action_size = action_size

  def actions(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the endless actions `[A]` of one episode."""
    raise NotImplementedError

  def begin(self, rows: int) -> None:
    self._sequences: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    for row in np.flatnonzero(is_first):
      self._sequences[row] = self.actions(_rng(self, seeds[row]))
    return np.clip([next(sequence) for sequence in self._sequences], -1, 1).astype(np.float32)


class Uniform(_OpenLoop):
  """A uniform action at each decision."""

  def actions(self, rng):
    while True:
      yield rng.uniform(-1, 1, self.action_size)


class Held(_OpenLoop):
  """A uniform action, held for 1 to `max_decisions` decisions (Ha & Schmidhuber 2018, on Doom)."""

  def __init__(self, action_size: int, max_decisions: int = 10):
    super().__init__(action_size)
    self.max_decisions = max_decisions

  def actions(self, rng):
    while True:
      yield from _held(rng, self.action_size, self.max_decisions)


class Brownian(_OpenLoop):
  """An Ornstein-Uhlenbeck process, clipped to [-1, 1].

  Before clipping, an action has mean `mean` and standard deviation `scale` at every decision, and
  correlation `exp(-theta k)` with the one k decisions before.
  """

  def __init__(
    self,
    action_size: int,
    scale: float = 0.6,
    theta: float = 0.2,
    mean: float | Sequence[float] = 0.0,
  ):
    super().__init__(action_size)
    self.scale, self.theta, self.mean = scale, theta, mean

  def actions(self, rng):
    shape = (self.action_size,)
    for noise in _correlated(rng, shape, self.scale, math.exp(-self.theta)):
      yield np.asarray(self.mean) + noise


class _Disturbed:
  """Another actor, whose actions are disturbed by a random sequence of each episode's own."""

  def __init__(self, actor):
    self._actor = actor

  def disturbances(self, rng: np.random.Generator, action_size: int) -> Iterator[Any]:
    """Yields what disturbs the actions of one episode, endlessly."""
    raise NotImplementedError

  def disturb(self, action: np.ndarray, disturbance: Any) -> np.ndarray:
    """The action `[A]` that is taken instead."""
    raise NotImplementedError

  def begin(self, rows: int) -> None:
    self._actor = _begun(self._actor, rows)
    self._sequences: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    meant = np.asarray(self._actor.act(observation, is_first, seeds, infos))
    for row in np.flatnonzero(is_first):
      self._sequences[row] = self.disturbances(_rng(self, seeds[row]), meant.shape[1])
    pairs = zip(meant, self._sequences, strict=True)
    action = np.stack([self.disturb(row, next(sequence)) for row, sequence in pairs])
    action = action.astype(np.float32)
    if hasattr(self._actor, "took"):  # An agent's memory is to hold what was done, not meant.
      self._actor.took(action)
    return action


class Noisy(_Disturbed):
  """Another actor's actions plus correlated noise, clipped to [-1, 1].

  The noise is that of `Brownian` around zero, with standard deviation `scale` and `correlation`
  between a decision and the next.
  """

  def __init__(self, actor, scale: float | Sequence[float], correlation: float = 0.8):
    super().__init__(actor)
    self._scale, self._correlation = scale, correlation

  def disturbances(self, rng, action_size):
    return _correlated(rng, (action_size,), self._scale, self._correlation)

  def disturb(self, action, disturbance):
    return np.clip(action + disturbance, -1, 1)


class Interrupted(_Disturbed):
  """Another actor, which a uniform action now and then takes the place of for a few decisions.

  What no competent actor does is so seen where competent ones are, and how they recover from it.
  """

  def __init__(self, actor, rate: float, max_decisions: int = 8):
    """Interrupts `actor`.

    Args:
      actor: any.
      rate: probability that an interruption begins at a decision outside of one.
      max_decisions: an interruption lasts for 1 to so many decisions, all alike.
    """
    if not 0.0 <= rate <= 1.0:
      raise ValueError(f"rate is a probability: between 0 and 1, not {rate}.")
    super().__init__(actor)
    self._rate, self._max_decisions = rate, max_decisions

  def disturbances(self, rng, action_size):
    """Yields an action for each decision of an interruption, and None outside."""
    while True:
      if rng.random() < self._rate:
        yield from _held(rng, action_size, self._max_decisions)
      else:
        yield None

  def disturb(self, action, disturbance):
    return action if disturbance is None else disturbance


class Scripted:
  """An environment's scripted policy (`wm_tf.envs.make_heuristic`), a fresh copy in each episode.

  It may read the simulator (`info["privileged"]`): print its share of the data beside what was
  learned from it.
  """

  def __init__(self, heuristic):
    self._heuristic = heuristic

  def begin(self, rows: int) -> None:
    self._rows: list[Any] = [None] * rows

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    for row in np.flatnonzero(is_first):
      self._rows[row] = copy.deepcopy(self._heuristic), _rng(self, seeds[row])
    actions = [
      heuristic.act(observation[row : row + 1], infos[row : row + 1], rng)
      for row, (heuristic, rng) in enumerate(self._rows)
    ]
    return np.clip(np.concatenate(actions), -1, 1).astype(np.float32)


class Mixture:
  """Lets each episode be played by one of several actors, which its seed chooses.

  Pass `choice` as the `policy_name` of a collection to have the choices on record.
  """

  def __init__(self, actors: Mapping[str, Any], weights: Mapping[str, float] | None = None):
    """Mixes `actors`, by name, with probabilities proportional to `weights` (by default equal)."""
    weights = weights or dict.fromkeys(actors, 1.0)
    if set(weights) != set(actors) or not sum(weights.values()) > 0 or min(weights.values()) < 0:
      raise ValueError(
        f"Mixture of {sorted(actors)}: weights {weights} must name the same, and be positive."
      )
    self._actors = dict(actors)
    self._weights = np.array([weights[name] for name in self._actors], np.float64)

  def choice(self, seed: int) -> str:
    """The name of the actor that plays the episode of this seed."""
    p = self._weights / self._weights.sum()
    return str(_rng(self, seed).choice(list(self._actors), p=p))

  def begin(self, rows: int) -> None:
    self._actors = {name: _begun(actor, rows) for name, actor in self._actors.items()}
    self._chosen = np.full(rows, "", object)

  def act(self, observation, is_first, seeds, infos) -> np.ndarray:
    for row in np.flatnonzero(is_first):
      self._chosen[row] = self.choice(seeds[row])
    # An actor sees all rows, so that its batch keeps its size; those that are not its own as if an
    # episode began there each time. An actor without any row of its own is not asked.
    actions = {
      name: self._actors[name].act(observation, is_first | (self._chosen != name), seeds, infos)
      for name in dict.fromkeys(self._chosen)
    }
    return np.stack([actions[name][row] for row, name in enumerate(self._chosen)])


def _rng(actor, seed) -> np.random.Generator:
  """Random numbers of an episode; different ones for different kinds of actors."""
  return np.random.default_rng([int(seed), zlib.crc32(type(actor).__name__.encode())])


def _begun(actor, rows: int):
  actor = copy.copy(actor)
  actor.begin(rows)
  return actor


def _held(rng: np.random.Generator, size: int, max_decisions: int) -> Iterator[np.ndarray]:
  """Yields one uniform action `[size]`, for 1 to `max_decisions` decisions."""
  action = rng.uniform(-1, 1, size)
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
