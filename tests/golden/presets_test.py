"""Every field of every preset, as CarRacing is run with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden import commands
from tests.golden.comparing import differences, read_json
from wm_tf import config as config_lib

_PRESETS = read_json(commands.GOLDEN / "presets.json")


def presets() -> dict[str, dict[str, Any]]:
  """Every field of every preset, by its path."""
  return {name: _fields(config_lib.make_config(name)) for name in config_lib.preset_names()}


def _fields(config) -> dict[str, Any]:
  # Through JSON, where a tuple is a list.
  return json.loads(json.dumps(dict(config_lib.flatten(config))))


@pytest.mark.parametrize("overrides", [(), ("environment=car_racing",)], ids=["default", "named"])
@pytest.mark.parametrize("name", _PRESETS)
def test_presets_of_car_racing(name, overrides):
  config = config_lib.make_config(name, overrides)
  found = _fields(config)
  assert found["environment"] == "car_racing"
  assert not differences(found, _PRESETS[name], rtol=0.0)
  assert config_lib.from_dict(json.loads(json.dumps(config_lib.to_dict(config)))) == config


def test_overrides_apply_last():
  config = config_lib.make_config("quickstart", ["collect.heuristic=0.5", "collect.held=0"])
  found = _fields(config_lib.override(config, ["controller.start_window=3"]))
  expected = _PRESETS["quickstart"] | {
    "collect.heuristic": 0.5,
    "collect.held": 0.0,
    "controller.start_window": 3,
  }
  assert not differences(found, expected, rtol=0.0)
