"""Checks whole dataset folders and removes damaged shards."""

from __future__ import annotations

import os

from wm_tf import files
from wm_tf.data.manifest import CorruptShardError, Manifest, load_manifest, save_manifest
from wm_tf.data.rollouts import check_records, remove_orphans


def find_corrupt(folder: str | os.PathLike) -> list[CorruptShardError]:
  """Reads a whole dataset folder and finds all damaged shards.

  Args:
    folder: the dataset folder.

  Returns:
    One error for each bad shard; empty if there is none.
  """
  errors = []
  for shard in load_manifest(folder).shards:
    try:
      check_records(folder, shard)
    except CorruptShardError as error:
      errors.append(error)
  return errors


def verify(folder: str | os.PathLike) -> Manifest:
  """Reads a whole dataset folder and checks it.

  Args:
    folder: the dataset folder.

  Returns:
    The folder's manifest.

  Raises:
    CorruptShardError: at the first bad record.
  """
  manifest = load_manifest(folder)
  for shard in manifest.shards:
    check_records(folder, shard)
  return manifest


def repair(folder: str | os.PathLike) -> list[CorruptShardError]:
  """Removes the bad shards of a dataset folder and keeps the good ones.

  Args:
    folder: the dataset folder.

  Returns:
    One error for each removed shard.

  Raises:
    FolderInUseError: if another process is writing to the folder.
  """
  with files.locked(folder):
    errors = find_corrupt(folder)
    bad = {error.path.name for error in errors}
    manifest = load_manifest(folder)
    kept = manifest._replace(shards=tuple(s for s in manifest.shards if s.file not in bad))
    if bad:
      save_manifest(folder, kept)
    remove_orphans(folder, kept)
    return errors
