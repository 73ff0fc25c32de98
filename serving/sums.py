"""Verifies a version folder against its `SHA256SUMS`.

The file has the format of `sha256sum`. Its last line is `# N files`, so that a truncation is found.
"""

from __future__ import annotations

import hashlib
import os
import re

_SUMS = "SHA256SUMS"


def damage(folder: str) -> str | None:
  """Compares the files of a folder with its `SHA256SUMS`.

  A damaged graph may still load: TensorFlow verifies the variables, not `saved_model.pb`.

  Args:
    folder: path of the version folder.

  Returns:
    A description of the first missing or damaged file, which may be `SHA256SUMS` itself. None if
    every file is intact, or if the folder has no `SHA256SUMS`.
  """
  path = os.path.join(folder, _SUMS)
  if not os.path.exists(path):
    return None
  with open(path, encoding="utf-8", errors="replace") as file:
    *lines, last = file.read().splitlines() or [""]
  if last != f"# {len(lines)} files":
    return f"{_SUMS} is cut off or damaged: its last line is not the number of files"
  for line in lines:
    match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
    if not match:
      return f"{_SUMS} is damaged: it holds {line[:80]!r}"
    expected, name = match.groups()
    try:
      with open(os.path.join(folder, name), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    except (OSError, ValueError) as error:  # ValueError: not a valid file name.
      return f"{name}, which {_SUMS} lists, cannot be read ({error})"
    if found != expected:
      return f"{name} does not have the checksum in {_SUMS}: it was damaged or changed"
  return None
