"""Trainers in one process: each is a binary, whose flags may have the names of another's."""

from __future__ import annotations

import importlib
from types import ModuleType

from absl import flags


def import_trainer(name: str) -> ModuleType:
  """Imports `trainers.NAME`; the flags of trainers imported before make way for its own."""
  module = f"trainers.{name}"
  for owner, found in list(flags.FLAGS.flags_by_module_dict().items()):
    if owner.startswith("trainers.") and owner not in ("trainers.common", module):
      for flag in list(found):
        delattr(flags.FLAGS, flag.name)
  return importlib.import_module(module)
