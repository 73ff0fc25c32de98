"""Reads every file of a run and reports the missing and the damaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wm_tf import files
from wm_tf.config import ExperimentConfig
from wm_tf.data import rollouts
from wm_tf.data.manifest import CorruptManifestError
from wm_tf.export import saved_versions
from wm_tf.runs.families import Family, families
from wm_tf.training import checkpoints
from wm_tf.training.loggers import read_jsonl

_DAMAGE = (
  CorruptManifestError,
  checkpoints.CorruptCheckpointError,
  files.DamagedFileError,
  rollouts.CorruptShardError,
)


_READERS = {
  ".json": files.read_json,
  ".npz": checkpoints.read_arrays,
  ".jsonl": read_jsonl,
}


class Problem(NamedTuple):
  """A missing or damaged file.

  Attributes:
    text: description, with the name of the file.
    remove: file or folder to remove, so that the run's command makes it again; None if there is
      nothing to remove.
  """

  text: str
  remove: Path | None


def problems(workdir: Path) -> Iterator[Problem]:
  """Reads the files of a run and checks them.

  Logs (`tensorboard`, `server.log`) are not read, since nothing is computed from them.

  Args:
    workdir: the folder of the run.

  Yields:
    A `Problem` for each missing or damaged file.
  """
  if not (workdir / "run.json").exists():
    yield Problem(f"{workdir / 'run.json'} is missing; the run's command writes it again.", None)
  yield from _check_files(workdir, workdir.glob("*.json"))
  if (workdir / files.SUMS).exists():
    for error in files.check_sums(workdir):  # The report and its figures are made together.
      yield Problem(str(error), workdir / files.SUMS)
  elif (workdir / "report.html").exists():
    yield _without_sums(workdir)
  family = _family(workdir)
  for pattern in ("data/*", *family.datasets):
    for folder in sorted(workdir.glob(pattern)):
      yield from _check_dataset(folder)
  for stage in (*family.fits, "controller"):
    for folder in sorted(workdir.glob(f"{stage}/*")):
      yield from _check_stage(folder)
  for folder in sorted(workdir.glob("finish/*")):  # A search can always continue: it has no sums.
    yield from _check_files(folder, [p for p in folder.rglob("*") if p.suffix in _READERS])
  for model in sorted(workdir.glob("export/*")):
    for version in saved_versions(model):
      yield from _check_sums(model / str(version))


def _family(workdir: Path) -> type[Family]:
  """Returns the family of a run; the default one if it cannot be told."""
  try:
    return families.get(files.read_json(workdir / "run.json")["config"]["family"])
  except (OSError, KeyError, ValueError, files.DamagedFileError):
    return families.get(ExperimentConfig.family)


def _check_files(folder: Path, paths) -> Iterator[Problem]:
  for path in sorted(paths):
    try:
      _READERS[path.suffix](path)
    except _DAMAGE as error:
      yield Problem(str(error), path)


def _check_dataset(folder: Path) -> Iterator[Problem]:
  try:
    manifest = rollouts.load_manifest(folder)
  except FileNotFoundError:
    if any(folder.glob("shard-*")):
      yield Problem(f"{folder / rollouts.MANIFEST} is missing beside shards.", folder)
    return
  except CorruptManifestError as error:
    yield Problem(str(error), folder)
    return
  for shard in manifest.shards:
    try:
      rollouts.check_records(folder, shard)
    except rollouts.CorruptShardError as error:
      yield Problem(str(error), error.path)


def _check_stage(folder: Path) -> Iterator[Problem]:
  """Checks a stage by its sums if it is finished, and reads all files that have a reader."""
  if (folder / files.SUMS).exists():
    yield from _check_sums(folder)
  elif (folder / "quality.json").exists() or (folder / "controller.npz").exists():
    yield _without_sums(folder)
  paths = [path for path in folder.rglob("*") if path.suffix in _READERS]
  yield from _check_files(folder, paths)


def _check_sums(folder: Path) -> Iterator[Problem]:
  try:
    for error in files.check_sums(folder):
      yield Problem(str(error), folder)
  except FileNotFoundError:
    yield _without_sums(folder)


def _without_sums(folder: Path) -> Problem:
  text = f"{folder / files.SUMS} is missing: other files there may have changed unseen."
  return Problem(text, None)
