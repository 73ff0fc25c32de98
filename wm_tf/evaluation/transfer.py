"""Rank correlation of dreamed and real returns, over many controllers of mixed skill.

A few trained controllers are varied until there are good, medium and bad ones. All are dreamed from
the same states under the same noise. Other modules play them in the environment, all on the same
seeds. The rank correlation tells whether controllers can be selected by their dreamed return.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Nest
from wm_tf.imagination import imagine, imagine_returns, repeat_rows
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.networks import Layers, LayersPolicy, Network, controller_actions

# --- Controllers ---------------------------------------------------------------------------------


def mixed_controllers(originals: Mapping[str, Network], num: int, seed: int) -> dict[str, Layers]:
  """Makes `num` controllers of mixed skill from a few trained ones.

  The first are the originals (at most half of `num`, evenly spaced, always including the first),
  and a controller whose weights are zero. The others are noisy, shrunk and blended originals in
  turn. A call with a larger `num` makes the same variations first.

  Args:
    originals: networks by name, at least one; all with equal shapes and the same features.
    num: N, at least 2.
    seed: seed of the variations.

  Returns:
    Name to layers on the features, N of them.
  """
  names = list(originals)
  places = np.linspace(0, len(names) - 1, min(len(names), max(1, num // 2))).round().astype(int)
  found = {names[place]: originals[names[place]].fold() for place in dict.fromkeys(places)}
  found["nothing"] = tuple(np.zeros_like(layer) for layer in found[names[0]])
  for index in itertools.count():
    if len(found) >= num:
      break
    generator = np.random.default_rng([seed, index])
    name = names[generator.integers(len(names))]
    base = originals[name]
    kind = ("noise", "shrunk", "blend")[index % 3]
    if kind == "noise":
      scale = 10.0 ** generator.uniform(-1.0, 0.3)
      spread = [scale * np.sqrt(np.square(x).mean()) for x in base.layers]
      noisy = [
        x + s * generator.normal(size=x.shape) for x, s in zip(base.layers, spread, strict=True)
      ]
      label, layers = f"{name} + noise {scale:.2f}", base._replace(layers=tuple(noisy)).fold()
    elif kind == "shrunk" or len(names) == 1:
      share = generator.uniform(0.1, 0.9)
      *before, last = base.fold()
      label, layers = f"{share:.2f} {name}", (*before, share * last)
    else:
      other = generator.choice([other for other in names if other != name])
      share = generator.uniform(0.2, 0.8)
      label = f"{share:.2f} {name} + {1 - share:.2f} {other}"
      pairs = zip(base.fold(), originals[other].fold(), strict=True)
      layers = [share * one + (1.0 - share) * two for one, two in pairs]
    found.setdefault(label, tuple(layer.astype(np.float32) for layer in layers))
  return dict(itertools.islice(found.items(), num))


# --- Dreams --------------------------------------------------------------------------------------


def dream_returns(
  world_model: WorldModel,
  controllers: Sequence[Layers],
  starts: Nest,
  lengths: Sequence[int],
  seed: int,
  *,
  temperature: float = 1.0,
) -> np.ndarray:
  """Computes the dreamed returns of controllers, from the same states and under the same noise.

  Args:
    world_model: the world model.
    controllers: N controllers of equal shapes.
    starts: R real states, a nest of `[R, ...]`.
    lengths: L ascending numbers of decisions.
    seed: seed of the noise.
    temperature: temperature of the dreams.

  Returns:
    `float32[L, N, R]`: sums of rewards up to each length, weighted by the probability that the
    episode has not terminated before.
  """
  num, num_rows = len(controllers), len(tf.nest.flatten(starts)[0])
  layers = [tf.constant(np.stack(layer)) for layer in zip(*controllers, strict=True)]

  def action_fn(t, state, memory):
    features = tf.reshape(world_model.features(state), [num, num_rows, world_model.feature_size])
    actions = controller_actions(layers, features, world_model.num_choices)
    return tf.reshape(actions, [num * num_rows, world_model.action_size]), memory

  @tf.function(autograph=False)
  def play(state, horizon, seed):
    return imagine_returns(
      world_model, action_fn, state, horizon, seed, temperature=temperature, num_copies=num
    )

  state, total, alive, found = repeat_rows(starts, num), 0.0, 1.0, []
  for index, (begin, end) in enumerate(itertools.pairwise([0, *lengths])):
    part = play(state, tf.constant(end - begin), rng.fold_in(rng.make_seed(seed), index))
    total = total + alive * part.imagined_return.numpy()
    alive = alive * part.alive.numpy()
    state = part.state
    found.append(total.reshape(num, num_rows))
  return np.stack(found)


def best_dream(
  world_model: WorldModel,
  controller: Layers,
  starts: Nest,
  num_decisions: int,
  seed: int,
  *,
  temperature: float = 1.0,
) -> tuple[Nest, float]:
  """Finds the dream of the highest return for a controller, which shows what it exploits.

  Args:
    world_model: the world model.
    controller: layers of the controller.
    starts: R real states, a nest of `[R, ...]`; one dream starts from each.
    num_decisions: H, the length of a dream.
    seed: seed of the dreams.
    temperature: temperature of the dreams.

  Returns:
    The dream's mean observations as of `WorldModel.decode`, with leading dimension H, and its
    return.
  """
  policy = LayersPolicy(world_model, controller)
  imagined, states = imagine(
    world_model,
    lambda t, state, memory: policy.act(state, memory),
    starts,
    num_decisions,
    rng.make_seed(seed),
    temperature=temperature,
  )
  discount = imagined.discount.numpy()
  alive = np.cumprod(np.concatenate([np.ones_like(discount[:, :1]), discount[:, :-1]], 1), axis=1)
  returns = (alive * imagined.reward.numpy()).sum(1)
  best = int(returns.argmax())
  decoded = world_model.decode(tf.nest.map_structure(lambda x: x[best], states))
  return tf.nest.map_structure(lambda x: x.numpy(), decoded), float(returns[best])


# --- Dream against reality -----------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
  """Returns the ranks of numbers, from 1.

  Args:
    values: `float[N]`.

  Returns:
    `float64[N]`; equal values share the mean of their ranks.
  """
  _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
  """Computes Spearman's rank correlation.

  Args:
    a: `float[N]`.
    b: `float[N]`.

  Returns:
    The correlation in [-1, 1]; None if `a` or `b` is constant, or N is below 2.
  """
  a, b = ranks(a), ranks(b)
  if len(a) < 2 or not a.std() or not b.std():
    return None
  return float(np.corrcoef(a, b)[0, 1])


def rank_correlation_interval(
  a: np.ndarray, b: np.ndarray, seed: int, coverage: float = 0.9, num_draws: int = 1000
) -> tuple[float, float] | None:
  """Computes a bootstrap interval of the rank correlation, over the pairs `(a[i], b[i])`.

  The pairs are resampled, and the episodes behind each are not: a pair already contains the noise
  of its episodes, which would count twice otherwise.

  Args:
    a: `float[N]`.
    b: `float[N]`.
    seed: seed of the bootstrap.
    coverage: probability that the interval covers.
    num_draws: number of bootstrap samples.

  Returns:
    The lower and the upper end; None if the correlation is undefined in every sample.
  """
  draws = np.random.default_rng(seed).integers(len(a), size=(num_draws, len(a)))
  found = [rank_correlation(a[rows], b[rows]) for rows in draws]
  found = [value for value in found if value is not None]
  if not found:
    return None
  low, high = np.quantile(found, [(1 - coverage) / 2, (1 + coverage) / 2])
  return float(low), float(high)


def reliability(scores: np.ndarray) -> float | None:
  """Estimates the share of the variance between row means that is not noise.

  It is `1 - residual / between rows` by a two-way analysis of variance. Columns are common to all
  rows, such as seeds. No predictor of the row means can be expected to correlate with them better
  than the square root of the reliability.

  Args:
    scores: `float[N, E]`.

  Returns:
    A number in [0, 1]; None with fewer than two rows or columns, or if all row means are equal.

  References:
    Hoyt 1941, "Test Reliability Estimated by Analysis of Variance".
  """
  num, columns = scores.shape
  if num < 2 or columns < 2:
    return None
  scores = np.asarray(scores, np.float64)
  by_row, by_column = scores.mean(1, keepdims=True), scores.mean(0, keepdims=True)
  between = columns * by_row.var() * num / (num - 1)
  residual = np.square(scores - by_row - by_column + scores.mean()).sum()
  if not between:
    return None
  return float(np.clip(1.0 - residual / ((num - 1) * (columns - 1)) / between, 0.0, 1.0))


def transfer(dream: np.ndarray, real: np.ndarray, chosen: int, seed: int) -> dict[str, Any]:
  """Compares the returns of N controllers in the dream and in the environment.

  Args:
    dream: `float[N, R]`, dreamed returns.
    real: `float[N, E]`, real returns; column e has the same seed for all controllers.
    chosen: row of the controller that the run has chosen.
    seed: seed of the bootstrap.

  Returns:
    `rank_correlation` of the means (Spearman) and its 90% `interval`; `reliability` of the real
    means, and `ceiling`, its square root: the correlation expected of a perfect dream at this
      number
    of episodes; `gap`, dream minus real: the `mean` over all controllers, of the `chosen` one, and
    of the `favourites` (the quarter with the best dreamed returns; if it is well above the mean,
    the controllers exploit the model); `regret`, the best real mean minus that of the controller
    with the best dreamed mean; `real_spread`, the standard deviation of the real means; and the
    numbers `num_controllers`, `num_episodes` and `num_dreams`.
  """
  dream_mean, real_mean = dream.mean(1), real.mean(1)
  gaps = dream_mean - real_mean
  order = np.argsort(-dream_mean, kind="stable")
  sure = reliability(real)
  return {
    "num_controllers": len(dream),
    "num_episodes": real.shape[1],
    "num_dreams": dream.shape[1],
    "rank_correlation": rank_correlation(dream_mean, real_mean),
    "interval": rank_correlation_interval(dream_mean, real_mean, seed),
    "reliability": sure,
    "ceiling": None if sure is None else float(np.sqrt(sure)),
    "gap": {
      "mean": float(gaps.mean()),
      "chosen": float(gaps[chosen]),
      "favourites": float(gaps[order[: max(1, len(order) // 4)]].mean()),
    },
    "regret": float(real_mean.max() - real_mean[order[0]]),
    "real_spread": float(real_mean.std()),
  }
