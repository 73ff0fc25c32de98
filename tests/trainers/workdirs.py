"""Looking into workdirs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
  return json.loads(path.read_text())


def snapshot(folder: Path) -> dict[str, str]:
  """The checksum of every file."""
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
