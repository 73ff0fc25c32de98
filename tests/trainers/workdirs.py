"""Looking into workdirs: what they hold, to compare one with another."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

# Flags of the run that tests share: short episodes, which still tell the heuristic from random.
RUN = ("--preset=debug", "--override=environment_options.max_steps=300")

# Times, logs, absolute paths; and files that TensorFlow does not write the same twice, with what
# is drawn from them.
_LOGS = re.compile(r"tensorboard/|(^|/)\.lock$|server\.log$|models\.config$")
_VARYING = re.compile(
  r"^(seconds\.json|report\.html|SHA256SUMS)$|^export/.*(variables|requests|pb|SHA256SUMS)"
)


def read_json(path: Path) -> Any:
  """A JSON file, without its checksum: the values may hold times, or be changed."""
  values = json.loads(path.read_text())
  if isinstance(values, dict):
    values.pop("sha256", None)
  return values


def snapshot(folder: Path) -> dict[str, str]:
  """The checksum of every file."""
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_log(name: str) -> bool:
  """Whether nothing is computed from a file of a workdir."""
  return bool(_LOGS.search(name))


def contents(workdir: Path) -> dict[str, object]:
  """What must not depend on interruptions, by file: a digest, or values; None if it may vary."""
  found = {}
  for path in sorted(path for path in workdir.rglob("*") if path.is_file()):
    name = str(path.relative_to(workdir))
    if is_log(name):
      continue
    if _VARYING.search(name):
      found[name] = None
    elif path.suffix == ".json":
      found[name] = _timeless(read_json(path))
    elif path.suffix == ".npz" and name.startswith("finish/"):
      found[name] = _search(path)
    elif path.name == "SHA256SUMS":
      lines = path.read_text().splitlines()
      found[name] = [line for line in lines if not line.endswith((".json", "report.html"))]
    else:
      found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
  return found


def _search(path: Path) -> dict[str, object]:
  """The arrays of a checkpoint of `trainers.finish`, whose scores of contenders hold times."""
  with np.load(path) as arrays:
    found = {key: hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in arrays}
    if "contenders" in found:
      found["contenders"] = _timeless(json.loads(str(arrays["contenders"])))
  return found


def _timeless(value):
  if isinstance(value, dict):
    return {key: _timeless(part) for key, part in value.items() if key != "seconds"}
  return [_timeless(part) for part in value] if isinstance(value, list) else value


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
  """The names of what two workdirs do not have in common."""
  return sorted(
    name for name in {**one, **other} if one.get(name, "missing") != other.get(name, "missing")
  )
