"""What is exported in these tests, and what it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from wm_tf.agent import Agent
from wm_tf.envs import env_spec
from wm_tf.envs.frames import resize
from wm_tf.models.mdn_rnn import MDNRNN

SPEC = env_spec("car_racing")
CONFIG = {"planner": {"horizon": 4}}


class Exports(NamedTuple):
  """Small untrained models, and the base path that holds their exports by name."""

  agents: dict[str, Agent]
  world_model: MDNRNN
  path: Path


def frames(seed, *lead, size=96):
  """`uint8[*lead, size, size, 3]` of noise."""
  return np.random.default_rng(seed).integers(0, 256, (*lead, size, size, 3), np.uint8)


def small(native):
  """What the agent sees of the environment's own frames."""
  return np.stack([resize(f, SPEC.observation.parts[0].crop, (64, 64)) for f in native])
