"""The manifest of a dataset folder: one JSON file that describes the folder's content.

It is replaced atomically. Since format version 2 it contains its own checksum. Version 3 is written
only for observations of several parts; all other manifests have version 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wm_tf.data.observations import ArraySpec, unpack
from wm_tf.files import DamagedFileError, read_json, to_json, user_path, write_json

MANIFEST = "manifest.json"
_ONE_ARRAY, _SEVERAL_PARTS = 2, 3  # Format versions that are written.
_READABLE = (1, _ONE_ARRAY, _SEVERAL_PARTS)


class CorruptManifestError(ValueError):
  """A manifest that cannot be read."""


class CorruptShardError(RuntimeError):
  """A shard is missing, truncated or damaged.

  Attributes:
    path: the shard's path.
    record: the index of the first bad record (or row) in the shard.
    offset: the position of that record in bytes.
    reason: what is wrong.
  """

  def __init__(self, path: Path, record: int, offset: int, reason: str):
    self.path, self.record, self.offset, self.reason = Path(path), record, offset, reason
    super().__init__(
      f"{path}: record {record} at byte {offset}: {reason}. Remove the file and run the command "
      "that made it (to collect, or to encode) again: it makes the same file. Or drop its episodes "
      f"with wm_tf.data.repair.repair({str(self.path.parent)!r})."
    )


class EpisodeInfo(NamedTuple):
  """The information about an episode that is recorded in addition to its steps.

  Attributes:
    seed: the seed that the environment was reset with; identifies the episode.
    policy: the name of the policy that played it.
    iteration: the iteration of the collect-and-learn loop, from 0.
    episode_return: the official return, including skipped frames.
    frames: the number of environment frames, including skipped ones.
    steps: the number of rows of the episode: decisions + 1.
  """

  seed: int
  policy: str
  iteration: int
  episode_return: float
  frames: int
  steps: int


class Shard(NamedTuple):
  """A file of episodes.

  Attributes:
    file: the file's name in the folder.
    bytes: the file's size.
    sha256: the checksum of the file.
    episodes: the episodes in the file, in order.
    source: the `sha256` of the shard that it was made from; empty for collected episodes.
  """

  file: str
  bytes: int
  sha256: str
  episodes: tuple[EpisodeInfo, ...]
  source: str = ""

  @property
  def num_steps(self) -> int:
    """The number of rows of all episodes."""
    return sum(info.steps for info in self.episodes)


class Manifest(NamedTuple):
  """The content of a dataset folder.

  Attributes:
    environment: `{"name": ..., "options": {...}}`.
    action_size: A.
    observation_shape: the shape of an observation that is one array: `(64, 64, 3)`, `(4,)`, or `(2
      Z,)` for cached posteriors; `()` for an observation of several parts.
    observation_dtype: `"uint8"` for an image, `"float32"` for a vector or cached posteriors; empty
      for an observation of several parts.
    fingerprint: identifies the encoder that made cached posteriors; empty for raw observations.
    shards: the shards in the order of writing.
    skipped: the seeds that were played and not kept.
    observation_parts: the shape and dtype of each named part; empty for an observation of one
      array.
  """

  environment: Mapping[str, Any]
  action_size: int
  observation_shape: tuple[int, ...] = ()
  observation_dtype: str = "uint8"
  fingerprint: str = ""
  shards: tuple[Shard, ...] = ()
  skipped: tuple[int, ...] = ()
  observation_parts: Mapping[str, ArraySpec] = {}

  @property
  def episodes(self) -> tuple[EpisodeInfo, ...]:
    """The episodes of all shards."""
    return tuple(info for shard in self.shards for info in shard.episodes)

  @property
  def arrays(self) -> dict[str, ArraySpec]:
    """The arrays of an observation by name, in order; an observation of one array has the name
    `""`.
    """
    if self.observation_parts:
      return unpack(self.observation_parts)
    return {"": ArraySpec(self.observation_shape, self.observation_dtype)}

  @property
  def is_embedded(self) -> bool:
    """Whether observations are cached posteriors instead of raw observations."""
    return bool(self.fingerprint)


def load_manifest(folder: str | os.PathLike) -> Manifest:
  """Reads the manifest of a dataset folder.

  Args:
    folder: the dataset folder.

  Returns:
    The manifest.

  Raises:
    FileNotFoundError: if there is no manifest.
    CorruptManifestError: if the manifest is damaged or has an unknown format version.
  """
  path = user_path(folder) / MANIFEST
  try:
    return _parse(read_json(path))
  except FileNotFoundError:
    raise FileNotFoundError(f"{path} does not exist: no rollouts here; collect some.") from None
  except (DamagedFileError, ValueError, KeyError, TypeError, AttributeError) as error:
    reason = error.reason if isinstance(error, DamagedFileError) else repr(error)
    raise CorruptManifestError(
      f"{path} is not a manifest that can be read ({reason}); delete the folder and collect again."
    ) from error


def save_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Writes the manifest of a dataset folder atomically.

  Args:
    folder: the dataset folder.
    manifest: the manifest to write.

  Raises:
    ValueError: if `load_manifest` could not read the result.
  """
  content = _content(manifest)
  _parse(content)
  write_json(user_path(folder) / MANIFEST, content)


def as_recorded(manifest: Manifest) -> Manifest:
  """Returns a manifest as `load_manifest` would read it after `save_manifest`.

  Args:
    manifest: the manifest to convert.

  Raises:
    ValueError: if `load_manifest` could not read the result.
  """
  return _parse(_content(manifest))


def _content(manifest: Manifest) -> dict[str, Any]:
  """Returns the JSON object of a manifest."""
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
  fields = manifest._asdict()
  parts = fields.pop("observation_parts")
  if not parts:
    return to_json({"format_version": _ONE_ARRAY, **fields, "shards": shards})
  del fields["observation_shape"], fields["observation_dtype"]
  fields["observation_parts"] = {name: spec._asdict() for name, spec in unpack(parts).items()}
  return to_json({"format_version": _SEVERAL_PARTS, **fields, "shards": shards})


def _parse(content: Mapping[str, Any]) -> Manifest:
  """Returns the manifest of a JSON object.

  Raises:
    ValueError, KeyError, TypeError, AttributeError: if the object is not a manifest.
  """
  content = dict(content)
  version = content.pop("format_version")
  if version not in _READABLE:
    raise ValueError(f"format version {version}, this code reads {_READABLE}")
  fields = {name: tuple(content.pop(name)) for name in ("shards", "skipped")}
  fields["shards"] = tuple(map(_parse_shard, fields["shards"]))
  if version == _SEVERAL_PARTS:
    parts = {name: ArraySpec(**part) for name, part in content.pop("observation_parts").items()}
    if not parts or "" in parts:
      raise ValueError(f"observation_parts is {parts!r}")
    for part in parts.values():
      _check_types({"observation_shape": part.shape, "observation_dtype": part.dtype})
    parts = {name: ArraySpec(tuple(shape), dtype) for name, (shape, dtype) in parts.items()}
    fields |= {"observation_parts": parts, "observation_shape": (), "observation_dtype": ""}
  else:
    fields["observation_shape"] = tuple(content.pop("observation_shape"))
    _check_types({"observation_shape": fields["observation_shape"]})
    _check_types({"observation_dtype": content["observation_dtype"]})
  _check_types({"skipped": fields["skipped"], **content})
  return Manifest(**fields, **content)


def _parse_shard(content: Mapping[str, Any]) -> Shard:
  episodes = tuple(EpisodeInfo(**info) for info in content["episodes"])
  shard = Shard(content["file"], content["bytes"], content["sha256"], episodes, content["source"])
  for record in (shard._replace(episodes=()), *episodes):
    _check_types(record._asdict())
  return shard


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_natural(value: Any) -> bool:
  return type(value) is int and 0 <= value < 2**63


def _is_positive(value: Any) -> bool:
  return _is_natural(value) and value > 0


def _is_shape(value: Any) -> bool:
  return isinstance(value, list | tuple) and all(map(_is_natural, value))


def _is_shard_name(value: Any) -> bool:
  return _is_text(value) and re.fullmatch(r"shard-\d+\.(tfrecord|rows)", value) is not None


def _is_environment(value: Any) -> bool:
  return isinstance(value, dict) and {"name", "options"} <= value.keys()


_IS_SOUND = {
  "environment": _is_environment,
  "action_size": _is_positive,  # With 0, TensorFlow's parser aborts the process.
  "observation_shape": _is_shape,
  "observation_dtype": ("uint8", "float32").__contains__,
  "fingerprint": _is_text,
  "skipped": _is_shape,
  "file": _is_shard_name,
  "bytes": _is_natural,
  "sha256": _is_text,
  "episodes": lambda _: True,  # Each episode is checked separately.
  "source": _is_text,
  "seed": _is_natural,
  "policy": _is_text,
  "iteration": _is_natural,
  "episode_return": lambda value: type(value) in (int, float),
  "frames": _is_natural,
  "steps": _is_positive,
}


def _check_types(fields: Mapping[str, Any]) -> None:
  for name, value in fields.items():
    if not _IS_SOUND[name](value):
      raise ValueError(f"{name} is {value!r}")
