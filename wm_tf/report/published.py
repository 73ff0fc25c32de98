"""Published figures by environment, shown only in reports on that environment."""

from __future__ import annotations

import re
from typing import NamedTuple


class Reference(NamedTuple):
  """A published score.

  Attributes:
    method: the name of the method.
    mean: the mean return.
    std: the standard deviation of the return; None if the source does not give it.
    source: where the score was published.
  """

  method: str
  mean: float
  std: float | None
  source: str


class References(NamedTuple):
  """The published scores of one environment.

  Attributes:
    environment: the environment that the scores were measured on.
    caveat: why the scores are not directly comparable.
    scores: the scores.
  """

  environment: str
  caveat: str
  scores: tuple[Reference, ...]


class ModelReferences(NamedTuple):
  """The usual figures of a world model of one environment.

  Limits are `(good, usable)`: the worst good figure, and the limit beyond which a figure is poor. A
  field is None if no usual value is known.

  Attributes:
    sse_limits: limits of the squared error of an image of 64x64x3 values in [0, 1].
    sse: usual squared errors, as text.
    active_limits: limits of the number of active latent dimensions.
    active: the usual number of active latent dimensions, as text.
    nll: usual negative log-likelihoods per latent dimension, as text.
    reward_r2_limits: limits of the R² of the predicted reward.
    reward_r2: the usual R² of the predicted reward, as text.
    reward_auc: the usual AUC of the rewarded steps, as text.
  """

  sse_limits: tuple[float, float] | None = None
  sse: str | None = None
  active_limits: tuple[float, float] | None = None
  active: str | None = None
  nll: str | None = None
  reward_r2_limits: tuple[float, float] | None = None
  reward_r2: str | None = None
  reward_auc: str | None = None


_CAR_RACING_SCORES = References(
  "CarRacing-v0",
  "measured on v0: another version of the environment, so context and not a comparison",
  (
    Reference("DQN", 343, 18, "World Models paper"),
    Reference("A3C, discrete", 652, 10, "World Models paper"),
    Reference("World Models, z only", 632, 251, "World Models paper"),
    Reference("World Models, z and h", 906, 21, "World Models paper"),
    Reference("ctallec/world-models", 860, 120, "its repository"),
    Reference("ctallec/world-models, untrained RNN", 870, 120, "its repository"),
    Reference("planning with an MDN-RNN (EPLS)", 679, 210, "from its logs"),
    Reference("trained only in the dream (dropout), last", 625, 289, "from its logs"),
    Reference("PPO-Beta", 913, 26, "secondary source"),
  ),
)
_TAKE_COVER_SCORES = References(
  "DoomTakeCover-v0",
  "measured on other versions of the environment, so context and not a comparison",
  (
    Reference("random", 210, 108, "reported"),
    Reference("World Models, temperature 1.15", 1092, 556, "World Models paper"),
    Reference("zacwellmer/WorldModels, temperature 1", 849, 499, "reported"),
    Reference("dropout dream land", 933, 552, "reported"),
    Reference("AttentionAgent", 1125, 589, "reported"),
  ),
)
_CAR_RACING_MODEL = ModelReferences(
  sse_limits=(25.0, 40.0),
  sse="CarRacing about 20 per 64x64x3 image",
  active_limits=(12, 6),
  active="24 of 32 in a trial of this recipe",
  nll="CarRacing 1.05 to 1.13",
  reward_r2_limits=(0.4, 0.1),
  reward_r2="0.52 in a trial of this recipe",
  reward_auc="0.94 in a trial of this recipe",
)
_TAKE_COVER_MODEL = ModelReferences(
  sse_limits=(25.0, 40.0),
  sse="Doom 27.7 per 64x64x3 image after 1,000 steps, 3.6 after 300,000",
  active_limits=(12, 6),
)

# A gymnasium id without namespace and version -> its published figures.
_SCORES = {
  "CarRacing": _CAR_RACING_SCORES,
  "DoomTakeCover": _TAKE_COVER_SCORES,
  "VizdoomTakeCover": _TAKE_COVER_SCORES,
}
_MODELS = {
  "CarRacing": _CAR_RACING_MODEL,
  "DoomTakeCover": _TAKE_COVER_MODEL,
  "VizdoomTakeCover": _TAKE_COVER_MODEL,
}


def _base_name(env_id: str) -> str:
  """Returns a gymnasium id without its namespace and version: `ns/Name-v1` gives `Name`."""
  return re.sub(r"-v\d+$", "", re.split(r"[/:]", env_id)[-1])


def published_scores(env_id: str) -> References | None:
  """Returns the published scores of an environment; None if none are known.

  Args:
    env_id: the gymnasium id, of any version.
  """
  return _SCORES.get(_base_name(env_id))


def model_references(env_id: str) -> ModelReferences:
  """Returns the usual figures of a world model; all fields are None if none are known.

  Args:
    env_id: the environment's gymnasium id, of any version.
  """
  return _MODELS.get(_base_name(env_id), ModelReferences())
