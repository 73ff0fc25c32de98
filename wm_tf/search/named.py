"""Searches by name: what `controller.strategy`, `planner.optimiser` and `finish.strategy` choose.

Another search is a `Strategy` and one call:

    register("mine", Search(MySearch, uses=("controller",)))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from wm_tf.search.categorical import CategoricalCEM, CategoricalMPPI
from wm_tf.search.cem import CEM
from wm_tf.search.cma_es import CMAES
from wm_tf.search.mppi import MPPI
from wm_tf.search.open_es import OpenES
from wm_tf.search.strategy import Strategy

USES = ("controller", "planner", "finish")


class Search(NamedTuple):
  """A kind of search.

  Attributes:
    make: makes a `Strategy` over vectors of real numbers; a dataclass or a partial of one.
    uses: of `USES`. A planner's search takes `bounds` and `action_size`; the finish needs the state
      of CMA-ES.
    make_categorical: makes a `Strategy` over plans of categorical actions; None if there is none.
  """

  make: Callable[..., Strategy]
  uses: tuple[str, ...]
  make_categorical: Callable[..., Strategy] | None = None


_SEARCHES: dict[str, Search] = {
  "cma_es": Search(CMAES, ("controller", "finish")),
  "sep_cma_es": Search(functools.partial(CMAES, separable=True), ("controller", "finish")),
  "open_es": Search(OpenES, ("controller",)),
  "cem": Search(CEM, ("controller", "planner"), CategoricalCEM),
  "mppi": Search(MPPI, ("planner",), CategoricalMPPI),
}


def register(name: str, search: Search) -> None:
  """Adds a search.

  Raises:
    ValueError: if the name is taken.
  """
  if name in _SEARCHES:
    raise ValueError(f"A search named {name!r} exists already.")
  _SEARCHES[name] = search


def search_names(use: str) -> tuple[str, ...]:
  """Returns the names of the searches for one of `USES`."""
  return tuple(name for name, search in _SEARCHES.items() if use in search.uses)


def make_search(name: str, *, num_choices: tuple[int, ...] = (), **options: Any) -> Strategy:
  """Makes a search.

  Args:
    name: see `search_names`.
    num_choices: of each group of a plan's categorical actions; empty for real numbers.
    **options: fields of the search. Fields that this kind of search does not have are left out, so
      that one set of options describes any kind.

  Raises:
    ValueError: for an unknown name, a search without a categorical form, or a bad option.
  """
  if name not in _SEARCHES:
    raise ValueError(f"Unknown search {name!r}: it must be one of {', '.join(_SEARCHES)}.")
  search = _SEARCHES[name]
  if not num_choices:
    return search.make(**_fields(search.make, options))
  if search.make_categorical is None:
    known = [key for key, value in _SEARCHES.items() if value.make_categorical]
    raise ValueError(f"{name} cannot search categorical actions; use {' or '.join(known)}.")
  options["num_choices"] = tuple(num_choices)
  return search.make_categorical(**_fields(search.make_categorical, options))


def _fields(make: Callable[..., Strategy], options: dict[str, Any]) -> dict[str, Any]:
  cls = make.func if isinstance(make, functools.partial) else make
  if not dataclasses.is_dataclass(cls):
    return options
  known = {field.name for field in dataclasses.fields(cls)}
  return {key: value for key, value in options.items() if key in known}
