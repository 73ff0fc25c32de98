"""What a dataset folder holds, as its manifest says: one JSON file, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


class CorruptManifestError(ValueError):
  """A manifest that cannot be read."""


class EpisodeInfo(NamedTuple):
  """What is known of an episode besides its steps.

  Attributes:
    seed: the seed that the environment was reset with; it identifies the episode.
    policy: name of what played it.
    iteration: of the collect-and-learn loop, from 0.
    episode_return: official return, skipped frames included.
    frames: environment frames, skipped ones included.
    steps: rows of the episode: decisions + 1.
  """

  seed: int
  policy: str
  iteration: int
  episode_return: float
  frames: int
  steps: int


class Shard(NamedTuple):
  """A shard as the manifest knows it; `source` is the checksum of the shard it was made from."""

  file: str
  bytes: int
  sha256: str
  episodes: tuple[EpisodeInfo, ...]
  source: str = ""


class Manifest(NamedTuple):
  """What a dataset folder holds.

  Attributes:
    environment: `{"name": ..., "options": {...}}`.
    action_size: A.
    observation_shape: of one row: `(64, 64, 3)`, or `(2 Z,)` for cached posteriors.
    observation_dtype: `"uint8"` or `"float32"`.
    fingerprint: of the encoder that made cached posteriors; empty for frames.
    shards: in the order of writing.
    skipped: seeds that were played and not kept.
  """

  environment: Mapping[str, Any]
  action_size: int
  observation_shape: tuple[int, ...]
  observation_dtype: str = "uint8"
  fingerprint: str = ""
  shards: tuple[Shard, ...] = ()
  skipped: tuple[int, ...] = ()

  @property
  def episodes(self) -> tuple[EpisodeInfo, ...]:
    return tuple(info for shard in self.shards for info in shard.episodes)


def load_manifest(folder: str | os.PathLike) -> Manifest:
  """Reads the manifest of a dataset folder.

  Raises:
    FileNotFoundError: if there is none.
    CorruptManifestError: if it cannot be read, or is of another format version.
  """
  path = Path(folder) / MANIFEST
  try:
    content = json.loads(path.read_text())
    version = content.pop("format_version")
    if version != FORMAT_VERSION:
      raise ValueError(f"format version {version}, this code reads {FORMAT_VERSION}")
    shards = tuple(
      Shard(
        shard["file"],
        shard["bytes"],
        shard["sha256"],
        tuple(EpisodeInfo(**info) for info in shard["episodes"]),
        shard["source"],
      )
      for shard in content.pop("shards")
    )
    shape = tuple(content.pop("observation_shape"))
    skipped = tuple(content.pop("skipped"))
    return Manifest(shards=shards, observation_shape=shape, skipped=skipped, **content)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path} does not exist: no rollouts here; collect some.") from None
  except (ValueError, KeyError, TypeError) as error:
    raise CorruptManifestError(
      f"{path} is not a manifest that can be read ({error!r}); delete the folder and collect again."
    ) from error


def save_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Writes the manifest atomically."""
  shards = [
    {
      "file": shard.file,
      "bytes": shard.bytes,
      "sha256": shard.sha256,
      "source": shard.source,
      "num_episodes": len(shard.episodes),
      "num_steps": sum(info.steps for info in shard.episodes),
      "episodes": [info._asdict() for info in shard.episodes],
    }
    for shard in manifest.shards
  ]
  content = {"format_version": FORMAT_VERSION, **manifest._asdict(), "shards": shards}
  temporary = Path(folder) / f".{MANIFEST}.tmp"
  with open(temporary, "w") as file:
    json.dump(content, file, indent=1)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, Path(folder) / MANIFEST)
