"""Registries of items by name: environments, families of models, learners, search strategies.

All look-ups by name, and all errors for unknown names, are in this module.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UnknownNameError(ValueError):
  """A name that is not registered; the message has the nearest known names."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Suggests known names for one that is unknown.

  Args:
    name: the unknown name.
    known: the known names. Of dotted names, such as fields of a configuration, the last part is
      also compared by itself, because users remember a field better than its path.

  Returns:
    "did you mean a or b?" with at most three names, or "known are: a, b." if none is near.
  """
  known = list(known)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  if not close:
    tails = {full.rpartition(".")[2]: full for full in known}
    matches = difflib.get_close_matches(name.rpartition(".")[2], tails, n=3, cutoff=0.6)
    close = [tails[tail] for tail in matches]
  if close:
    return f"did you mean {' or '.join(close)}?"
  return f"known are: {', '.join(known)}." if known else "there are none."


def unknown(noun: str, name: str, known: Iterable[str]) -> UnknownNameError:
  """Returns the error for an unknown name; the caller raises it.

  Args:
    noun: kind of item, such as `environment`.
    name: the unknown name.
    known: the known names.

  Returns:
    The error.
  """
  return UnknownNameError(f"Unknown {noun} {name!r}; {nearest(name, known)}")


def load(path: str) -> Any:
  """Imports an attribute of a module.

  Args:
    path: `"package.module:attribute"`; the attribute may be dotted.

  Returns:
    The attribute.

  Raises:
    ValueError: if the path has another form, or the module cannot be imported.
    UnknownNameError: if the module has no such attribute.
  """
  module_name, colon, attribute = path.partition(":")
  if not (module_name and colon and attribute):
    raise ValueError(f"{path!r} must look like package.module:attribute.")
  try:
    item = importlib.import_module(module_name)
  except ImportError as error:
    hint = ""
    if isinstance(error, ModuleNotFoundError):
      hint = " Install it, or run from the folder that it is in."
    raise ValueError(f"{path!r} cannot be imported: {error}.{hint}") from error
  for part in attribute.split("."):
    if not hasattr(item, part):
      names = [name for name in vars(item) if not name.startswith("_")]
      raise UnknownNameError(f"{path!r}: there is no {part!r} in it; {nearest(part, names)}")
    item = getattr(item, part)
  return item


class Registry:
  """Items by name. An item is any object, or a `"package.module:attribute"` imported when needed.

  learners = Registry("learner")
  learners.register("evolution", "wm_tf.learners.evolution:Evolution")
  learners.get("evolution")
  """

  def __init__(self, noun: str):
    """Makes an empty registry.

    Args:
      noun: kind of item, such as `learner`, for messages.
    """
    self.noun = noun
    self._items: dict[str, Any] = {}

  def register(self, name: str, item: Any) -> None:
    """Registers an item. The same item can be registered again, also after its module was reloaded.

    Args:
      name: name of the item.
      item: any object, or a path as `load` takes.

    Raises:
      ValueError: if the name is empty, or has another item.
    """
    if not isinstance(name, str) or not name:
      raise ValueError(f"The name of a {self.noun} must be a string that is not empty: {name!r}.")
    if name in self._items and not _same(self._items[name], item):
      raise ValueError(f"The {self.noun} name {name!r} is taken; choose another.")
    self._items[name] = item

  def names(self) -> tuple[str, ...]:
    """Returns the registered names, sorted."""
    return tuple(sorted(self._items))

  def entry(self, name: str) -> Any:
    """Returns what was registered under a name; a path is not imported.

    Args:
      name: name of the item.

    Returns:
      The item, or its path.

    Raises:
      UnknownNameError: if there is no such name.
    """
    if name not in self._items:
      raise unknown(self.noun, name, self.names())
    return self._items[name]

  def get(self, name: str) -> Any:
    """Returns an item; imports it if it was registered as a path.

    Args:
      name: name of the item.

    Returns:
      The item.

    Raises:
      UnknownNameError: if there is no such name.
      ValueError: if its path cannot be imported.
    """
    item = self.entry(name)
    return load(item) if isinstance(item, str) else item

  def __contains__(self, name: str) -> bool:
    return name in self._items


def _same(first: Any, second: Any) -> bool:
  """Returns whether two items are equal, or one definition in a module that was imported twice."""
  if isinstance(first, str) or isinstance(second, str) or first == second:
    return first == second
  names = [getattr(item, "__qualname__", None) for item in (first, second)]
  modules = [getattr(item, "__module__", None) for item in (first, second)]
  # Lambdas and local functions may share a name: `<lambda>`, `f.<locals>.g`.
  unique = names[0] is not None and "<" not in names[0]
  return unique and names[0] == names[1] and modules[0] == modules[1]
