"""The registry: names, lazy imports, and what an unknown name is answered."""

import sys
import types

import pytest

from wm_tf.registry import Registry, UnknownNameError, load, nearest


def _registry(**items):
  registry = Registry("animal")
  for name, item in items.items():
    registry.register(name, item)
  return registry


def test_items_are_found_by_name_and_paths_are_imported_when_needed():
  registry = _registry(dog=3, decoder="json:JSONDecoder", late="no_such_module:Thing")
  import json

  assert registry.get("dog") == 3
  assert registry.get("decoder") is json.JSONDecoder
  assert registry.entry("decoder") == "json:JSONDecoder"
  assert registry.names() == ("decoder", "dog", "late")
  assert "dog" in registry and "cat" not in registry
  with pytest.raises(ValueError, match=r"no_such_module:Thing.*No module named 'no_such_module'"):
    registry.get("late")


def test_an_unknown_name_is_answered_with_the_nearest():
  registry = _registry(horse=1, house_mouse=2, dog=3)
  with pytest.raises(UnknownNameError, match=r"^Unknown animal 'hors'; did you mean horse"):
    registry.get("hors")
  with pytest.raises(UnknownNameError, match="known are: dog, horse, house_mouse"):
    registry.get("zzz")
  with pytest.raises(UnknownNameError, match="there are none"):
    _registry().get("zzz")


def test_nearest_compares_the_last_part_of_dotted_names_too():
  known = ["controller.dream.horizon", "dynamics.num_mixtures"]
  assert nearest("num_mixture", known) == "did you mean dynamics.num_mixtures?"
  assert nearest("horizn", known) == "did you mean controller.dream.horizon?"


def test_a_name_is_taken_once():
  registry = _registry(dog=3)
  registry.register("dog", 3)
  with pytest.raises(ValueError, match="animal name 'dog' is taken"):
    registry.register("dog", 4)
  with pytest.raises(ValueError, match="not empty"):
    registry.register("", 4)


def test_a_class_of_a_reloaded_module_is_the_same_but_two_lambdas_are_not():
  def define():
    module = types.ModuleType("reloaded")
    exec("class Thing: pass\nf = lambda: 1", module.__dict__)
    module.Thing.__module__ = module.f.__module__ = "reloaded"
    return module

  first, second = define(), define()
  registry = _registry(thing=first.Thing, f=first.f)
  registry.register("thing", second.Thing)
  assert registry.get("thing") is second.Thing
  with pytest.raises(ValueError, match="taken"):
    registry.register("f", second.f)


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("json", "must look like package.module:attribute"),
    ("json:", "must look like"),
    ("json:JSONDecodr", "'JSONDecodr'.*JSONDecoder"),
    ("json:JSONDecoder.decod", "'decod'.*decode"),
  ],
)
def test_bad_paths_are_named(path, message):
  with pytest.raises(ValueError, match=message):
    load(path)


def test_a_missing_package_of_a_module_is_named(tmp_path, monkeypatch):
  (tmp_path / "needs_more.py").write_text("import no_such_package\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=r"needs_more:Thing.*no_such_package"):
    load("needs_more:Thing")
  assert "needs_more" not in sys.modules


def test_attributes_may_be_dotted():
  import json

  assert load("json:JSONDecoder.decode") is json.JSONDecoder.decode
