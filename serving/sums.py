"""Checks the files of a version folder against its `SHA256SUMS`, if the export wrote one."""

from __future__ import annotations

import hashlib
import os

_SUMS = "SHA256SUMS"


def damage(folder: str) -> str | None:
  """Returns which file does not match `SHA256SUMS`, as an error message; None if all match.

  The check finds a modified graph that still loads: TensorFlow checks the variables, but not
  `saved_model.pb`.

  Args:
    folder: the version folder. Without a `SHA256SUMS` file the result is None.
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
