"""What a dataset folder holds, as its manifest says: one JSON file, replaced atomically.

Since format version 2 the manifest carries a checksum of itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wm_tf.files import DamagedFileError, read_json, write_json

FORMAT_VERSION = 2
_READABLE = (1, 2)
MANIFEST = "manifest.json"


class CorruptManifestError(ValueError):
  """A manifest that cannot be read."""


class CorruptShardError(RuntimeError):
  """A shard is missing, truncated or damaged.

  Attributes:
    path: of the shard.
    record: index of the first bad record (or row) in it.
    offset: of that record, in bytes.
  """

  def __init__(self, path: Path, record: int, offset: int, reason: str):
    self.path, self.record, self.offset, self.reason = Path(path), record, offset, reason
    super().__init__(
      f"{path}: record {record} at byte {offset}: {reason}. Remove the file and run the command "
      "that made it (to collect, or to encode): it makes the same one again. Or drop its episodes "
      f"by wm_tf.data.rollouts.repair({str(self.path.parent)!r})."
    )


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

  @property
  def num_steps(self) -> int:
    return sum(info.steps for info in self.episodes)


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
    content = read_json(path)
    version = content.pop("format_version")
    if version not in _READABLE:
      raise ValueError(f"format version {version}, this code reads {_READABLE}")
    shards = tuple(map(_shard, content.pop("shards")))
    shape = tuple(content.pop("observation_shape"))
    skipped = tuple(content.pop("skipped"))
    _check_types({"observation_shape": shape, "skipped": skipped, **content})
    return Manifest(shards=shards, observation_shape=shape, skipped=skipped, **content)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path} does not exist: no rollouts here; collect some.") from None
  except (DamagedFileError, ValueError, KeyError, TypeError, AttributeError) as error:
    reason = error.reason if isinstance(error, DamagedFileError) else repr(error)
    raise CorruptManifestError(
      f"{path} is not a manifest that can be read ({reason}); delete the folder and collect again."
    ) from error


def _shard(content: Mapping[str, Any]) -> Shard:
  episodes = tuple(EpisodeInfo(**info) for info in content["episodes"])
  shard = Shard(content["file"], content["bytes"], content["sha256"], episodes, content["source"])
  for record in (shard._replace(episodes=()), *episodes):
    _check_types(record._asdict())
  return shard


_is_text = lambda value: isinstance(value, str)
_is_natural = lambda value: type(value) is int and value >= 0
_IS_SOUND = {
  "environment": lambda value: isinstance(value, dict) and {"name", "options"} <= value.keys(),
  "action_size": lambda value: _is_natural(value) and value > 0,  # 0 ends TensorFlow's parser.
  "observation_shape": lambda value: all(map(_is_natural, value)),
  "observation_dtype": ("uint8", "float32").__contains__,
  "fingerprint": _is_text,
  "skipped": lambda value: all(map(_is_natural, value)),
  "file": lambda value: _is_text(value) and re.fullmatch(r"shard-\d+\.(tfrecord|rows)", value),
  "bytes": _is_natural,
  "sha256": _is_text,
  "episodes": lambda _: True,  # Each one is looked at by itself.
  "source": _is_text,
  "seed": _is_natural,
  "policy": _is_text,
  "iteration": _is_natural,
  "episode_return": lambda value: type(value) in (int, float),
  "frames": _is_natural,
  "steps": lambda value: _is_natural(value) and value > 0,
}


def _check_types(fields: Mapping[str, Any]) -> None:
  for name, value in fields.items():
    if not _IS_SOUND[name](value):
      raise ValueError(f"{name} is {value!r}")


def save_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Writes the manifest atomically."""
  shards = [
    {
      "file": shard.file,
      "bytes": shard.bytes,
      "sha256": shard.sha256,
      "source": shard.source,
      "num_episodes": len(shard.episodes),
      "num_steps": shard.num_steps,
      "episodes": [info._asdict() for info in shard.episodes],
    }
    for shard in manifest.shards
  ]
  content = {"format_version": FORMAT_VERSION, **manifest._asdict(), "shards": shards}
  write_json(Path(folder) / MANIFEST, content)
