"""Searches by name: `controller.strategy`, `planner.optimiser` and `finish.strategy`.

To add a search, write a `Strategy` and register it:

    SEARCHES.register("mine", Search(MySearch, uses=("controller",)))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from wm_tf.registry import Registry, unknown
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
    uses: a subset of `USES`. A planner's search has the fields `bounds` and `action_size`. The
      finish needs the state of CMA-ES.
    make_categorical: makes a `Strategy` over plans of categorical actions; None if there is none.
  """

  make: Callable[..., Strategy]
  uses: tuple[str, ...]
  make_categorical: Callable[..., Strategy] | None = None


SEARCHES = Registry("search")
SEARCHES.register("cma_es", Search(CMAES, ("controller", "finish")))
SEARCHES.register(
  "sep_cma_es", Search(functools.partial(CMAES, separable=True), ("controller", "finish"))
)
SEARCHES.register("open_es", Search(OpenES, ("controller",)))
SEARCHES.register("cem", Search(CEM, ("controller", "planner"), CategoricalCEM))
SEARCHES.register("mppi", Search(MPPI, ("planner",), CategoricalMPPI))


def search_names(use: str) -> tuple[str, ...]:
  """Lists the searches for one use.

  Args:
    use: one of `USES`.

  Returns:
    Their names.
  """
  return tuple(name for name in SEARCHES.names() if use in SEARCHES.get(name).uses)


def check_search(config: Any, field: str, use: str, others: tuple[str, ...] = ()) -> None:
  """Checks that a field of a configuration names a search.

  Args:
    config: a dataclass.
    field: the name of a field of `config`.
    use: one of `USES`; error messages put it before the field.
    others: further names that are allowed.

  Raises:
    ValueError: if the field names no such search; the message has the nearest known names.
  """
  known = (*search_names(use), *others)
  value = getattr(config, field)
  if value not in known:
    raise ValueError(f"{use}.{field}={value}: {unknown('search', value, known)}")


def make_search(name: str, *, num_choices: tuple[int, ...] = (), **options: Any) -> Strategy:
  """Makes a search.

  Args:
    name: a name in `SEARCHES`.
    num_choices: choices in each group of a plan's categorical actions; empty for real numbers.
    **options: fields of the search. Fields that this kind of search does not have are ignored, so
      that one set of options suits any kind.

  Returns:
    The search.

  Raises:
    ValueError: for an unknown name, a search without a categorical form, or a bad option.
  """
  search = SEARCHES.get(name)
  if not num_choices:
    return search.make(**_fields(search.make, options))
  if search.make_categorical is None:
    known = [key for key in SEARCHES.names() if SEARCHES.get(key).make_categorical]
    raise ValueError(f"{name} cannot search categorical actions; use {' or '.join(known)}.")
  options["num_choices"] = tuple(num_choices)
  return search.make_categorical(**_fields(search.make_categorical, options))


def _fields(make: Callable[..., Strategy], options: dict[str, Any]) -> dict[str, Any]:
  cls = make.func if isinstance(make, functools.partial) else make
  if not dataclasses.is_dataclass(cls):
    return options
  known = {field.name for field in dataclasses.fields(cls)}
  return {key: value for key, value in options.items() if key in known}
