"""Configurations and flags, made up: one that holds together, or an error that helps."""

from __future__ import annotations

import json

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.bytes import damaged
from wm_tf import config as config_lib
from wm_tf.config import ConfigError, make_config

_FIELDS = [name for name, _ in config_lib.flatten(make_config("debug"))]
_TEXTS = [repr(value) for _, value in config_lib.flatten(make_config("debug"))]
_LITERALS = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
  lambda parts: st.lists(parts, max_size=4) | st.tuples(parts, parts),
  max_leaves=6,
).map(repr)
_VALUES = st.one_of(
  st.sampled_from(_TEXTS), _LITERALS, st.integers(-3, 300).map(str), st.text(max_size=12)
)
_NAMES = st.sampled_from(_FIELDS) | st.text("abcdefgh._= ", max_size=20)
_OVERRIDES = st.builds("{}={}".format, _NAMES, _VALUES) | st.text(max_size=30)


def _holds_together(config) -> None:
  values = json.loads(json.dumps(config_lib.to_dict(config)))
  again = config_lib.from_dict(values)
  assert repr(again) == repr(config)  # By their texts, since NaN is not itself.
  hash(config)


@given(preset=st.sampled_from(config_lib.preset_names()), texts=st.lists(_OVERRIDES, max_size=3))
def test_overrides(preset, texts):
  try:
    config = make_config(preset, texts)
  except ConfigError as error:
    assert str(error)
  else:
    _holds_together(config)


@given(data=st.data())
def test_configurations_of_something_else(data):
  values = json.loads(json.dumps(config_lib.to_dict(make_config("debug"))))
  group = values
  while True:
    key = data.draw(st.sampled_from(sorted(group)))
    if not isinstance(group[key], dict) or not group[key] or data.draw(st.booleans()):
      break
    group = group[key]
  kind = data.draw(st.sampled_from(["replace", "remove", "add"]))
  if kind == "remove":
    del group[key]
  elif kind == "add":
    group[data.draw(st.text(max_size=5))] = None
  else:
    group[key] = data.draw(
      st.none()
      | st.integers(-3, 300)
      | st.floats()
      | st.text(max_size=5)
      | st.lists(st.integers(-3, 9) | st.lists(st.integers(0, 9)), max_size=4)
      | st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
    )
  try:
    config = config_lib.from_dict(values)
  except ConfigError as error:
    assert "config" in str(error)
  else:
    _holds_together(config)


@pytest.fixture(scope="module")
def trainer_flags():
  """The flags of `trainers.evaluate`, which has all kinds."""
  from trainers import evaluate  # noqa: F401  Defines them.

  return flags.FLAGS


_FLAG_NAMES = st.sampled_from(
  ["preset", "config", "workdir", "seed", "override", "force", "agent", "episodes", "seeds"]
) | st.text("abcdef-_", max_size=6)
_ARGUMENTS = st.lists(
  st.builds("--{}={}".format, _FLAG_NAMES, _VALUES | st.sampled_from(["²", "1,²", "٣"]))
  | st.builds("--{}".format, _FLAG_NAMES)
  | st.text(max_size=8),
  max_size=4,
)


@given(arguments=_ARGUMENTS)
def test_flags(trainer_flags, tmp_path_factory, arguments):
  """They are refused, or give a configuration and seeds, or a `ConfigError`."""
  from trainers import common, errors, evaluate

  trainer_flags.unparse_flags()
  try:
    trainer_flags(["evaluate", *arguments])
    assert all(int(seed) >= 0 for seed in evaluate._SEEDS.value)
    assert evaluate._EPISODES.value >= 1 and common.seed() >= 0
    _holds_together(common.config())
  except (flags.Error, ConfigError) as error:
    assert str(error)
  except errors.EXPECTED_ERRORS as error:
    assert str(error)
  finally:
    trainer_flags.unparse_flags()
    for flag in ("config", "override", "seeds"):
      trainer_flags[flag].unparse()
    trainer_flags(["evaluate"])


@given(data=st.data())
def test_a_damaged_run_json_as_the_configuration(trainer_flags, tmp_path_factory, data):
  from trainers import common, errors
  from wm_tf import files

  path = tmp_path_factory.getbasetemp() / "config_run.json"
  config = make_config("debug")
  files.write_json(path, {"config": config_lib.to_dict(config), "seed": 3})
  path.write_bytes(data.draw(damaged(path.read_bytes())))
  trainer_flags.unparse_flags()
  trainer_flags(["evaluate", f"--config={path}"])
  try:
    assert common.config() == config
  except errors.EXPECTED_ERRORS as error:
    assert "config" in str(error)
  finally:
    trainer_flags["config"].unparse()
