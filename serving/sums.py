"""The checksums of a version folder, in the format of `sha256sum`, for exports that bring them."""

from __future__ import annotations

import hashlib
import os

_SUMS = "SHA256SUMS"


def damage(folder: str) -> str | None:
  """What is wrong with the files of a folder by its `SHA256SUMS`; None if nothing, or without one.

  A graph can be changed and still load: TensorFlow checks the variables, not `saved_model.pb`.
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
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have.
      return f"{name or path}, which {_SUMS} lists, cannot be read ({error})"
    if found != expected:
      return f"{name} is not the file that {_SUMS} lists: it was damaged or changed"
  return None
