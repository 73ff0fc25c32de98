"""Things by name: environments, families of models, learners, search strategies.

The one place that looks a name up, and the one way in which an unknown name is refused.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class UnknownNameError(ValueError):
  """A name that nothing is registered under; the message has the nearest known names."""


def nearest(name: str, known: Iterable[str]) -> str:
  """Suggests known names for one that is unknown.

  Args:
    name: what was asked for.
    known: the names that exist. Of dotted ones, such as fields of a configuration, the last part is
      also compared alone, because people remember a field better than its path.

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
  """Returns the error that refuses a name, to be raised.

  Args:
    noun: what the name is one of, such as `environment`.
    name: what was asked for.
    known: the names that exist.
  """
  return UnknownNameError(f"Unknown {noun} {name!r}; {nearest(name, known)}")


def load(path: str) -> Any:
  """Imports `"package.module:attribute"` and returns the attribute, which may be dotted.

  Raises:
    ValueError: if the path has another form, the module cannot be imported, or it has no such
      attribute.
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
    """Makes an empty registry; `noun` names one of its items in messages."""
    self.noun = noun
    self._items: dict[str, Any] = {}

  def register(self, name: str, item: Any) -> None:
    """Makes `get(name)` return `item`.

    Registering the same item again does nothing, also after its module was reloaded.

    Raises:
      ValueError: if the name is empty or is taken by another item.
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
    """Returns what was registered, a path that is not imported included.

    Raises:
      UnknownNameError: if there is no such name.
    """
    if name not in self._items:
      raise unknown(self.noun, name, self.names())
    return self._items[name]

  def get(self, name: str) -> Any:
    """Returns the item, imported if it was registered as a path.

    Raises:
      UnknownNameError: if there is no such name.
      ValueError: if what it stands for cannot be imported.
    """
    item = self.entry(name)
    return load(item) if isinstance(item, str) else item

  def __contains__(self, name: str) -> bool:
    return name in self._items


def _same(first: Any, second: Any) -> bool:
  """Whether two items are equal, or one definition of a module that was imported twice."""
  if isinstance(first, str) or isinstance(second, str) or first == second:
    return first == second
  names = [getattr(item, "__qualname__", None) for item in (first, second)]
  modules = [getattr(item, "__module__", None) for item in (first, second)]
  # Lambdas and what functions define share a name: `<lambda>`, `f.<locals>.g`.
  unique = names[0] is not None and "<" not in names[0]
  return unique and names[0] == names[1] and modules[0] == modules[1]
