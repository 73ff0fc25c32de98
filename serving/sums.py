"""Verifies a version folder against its checksum file, which has the format of `sha256sum`."""

from __future__ import annotations

import hashlib
import os

_SUMS = "SHA256SUMS"


def damage(folder: str) -> str | None:
  """Compares the files of a folder with its `SHA256SUMS`.

  A damaged graph may still load: TensorFlow verifies the variables, not `saved_model.pb`.

  Args:
    folder: path of the version folder.

  Returns:
    A description of the first missing or damaged file. None if every file is intact, or if the
    folder has no `SHA256SUMS`.
  """
  path = os.path.join(folder, _SUMS)
  if not os.path.exists(path):
    return None
  with open(path, encoding="utf-8", errors="replace") as file:
    lines = file.read().splitlines()
  for line in lines:
    if line.startswith("#"):
      continue
    expected, _, name = line.partition("  ")
    try:
      with open(os.path.join(folder, name), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    except (OSError, ValueError) as error:  # ValueError: not a valid file name.
      return f"{name or path}, which {_SUMS} lists, cannot be read ({error})"
    if found != expected:
      return f"{name} is not the file that {_SUMS} lists: it was damaged or changed"
  return None
