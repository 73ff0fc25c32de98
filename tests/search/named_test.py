"""Searches by name."""

import dataclasses

import pytest

from wm_tf.registry import UnknownNameError
from wm_tf.search import named
from wm_tf.search.categorical import CategoricalCEM
from wm_tf.search.cem import CEM
from wm_tf.search.cma_es import CMAES
from wm_tf.search.mppi import MPPI


def test_makes_what_is_named_with_the_options_that_it_has():
  options = dict(num_candidates=8, num_elites=3, initial_scale=0.2)
  assert named.make_search("sep_cma_es", **options) == CMAES(
    num_candidates=8, initial_scale=0.2, separable=True
  )
  assert named.make_search("cem", **options) == CEM(**options)
  assert named.make_search("mppi", **options) == MPPI(num_candidates=8, initial_scale=0.2)
  assert named.make_search("cem", num_choices=(3,), bounds=(-1.0, 1.0), **options) == (
    CategoricalCEM(num_choices=(3,), **options)
  )


def test_unknown_names_and_searches_without_a_categorical_form_are_errors():
  with pytest.raises(UnknownNameError, match=r"Unknown search 'cmaes'; did you mean .*cma_es"):
    named.make_search("cmaes")
  with pytest.raises(ValueError, match=r"open_es cannot search categorical .*cem or mppi"):
    named.make_search("open_es", num_choices=(2,))


def test_fields_name_searches_of_their_own_use():
  @dataclasses.dataclass
  class Config:
    optimiser: str

  named.check_search(Config("mppi"), "optimiser", "planner")
  named.check_search(Config("random_shooting"), "optimiser", "planner", ("random_shooting",))
  with pytest.raises(ValueError, match=r"planner.optimiser=cma_es: Unknown search 'cma_es'"):
    named.check_search(Config("cma_es"), "optimiser", "planner")


def test_another_search_can_be_registered(monkeypatch):
  monkeypatch.setattr(named.SEARCHES, "_items", dict(named.SEARCHES._items))
  named.SEARCHES.register("mine", named.Search(lambda num_candidates: num_candidates, ("finish",)))
  assert "mine" in named.search_names("finish") and "mine" not in named.search_names("planner")
  assert named.make_search("mine", num_candidates=7) == 7
