"""Files are whole or not there, and damage to them is named; the clock of the day is not used."""

from __future__ import annotations

import ast
import errno
import json
import os
from pathlib import Path

import pytest

from wm_tf import files

_ROOT = Path(__file__).resolve().parents[1]


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, monkeypatch):
  path = tmp_path / "values.json"
  files.write_json(path, {"a": 1})

  def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # As a write has it: without a name.

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match=r"No space left on device: '.*values\.json'"):
    files.write_json(path, {"a": 2})
  assert files.read_json(path) == {"a": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["values.json"]


def test_json_that_was_changed_is_refused_and_the_remedy_works(tmp_path):
  path = tmp_path / "run.json"
  files.write_json(path, {"seed": 1, "config": {"rate": 0.5}})
  path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
  with pytest.raises(files.DamagedFileError, match=r"run\.json is damaged .*'sha256'") as caught:
    files.read_json(path)
  assert caught.value.path == path
  values = json.loads(path.read_text())
  del values["sha256"]  # As the message says, for a change that was meant.
  path.write_text(json.dumps(values))
  assert files.read_json(path) == {"seed": 2, "config": {"rate": 0.5}}


def test_a_checksum_whose_name_was_damaged_too_is_not_overlooked(tmp_path):
  path = tmp_path / "run.json"
  files.write_json(path, {"preset": "debug", "seed": 1})
  for changes in ({"sha256": "rha256"}, {"sha256": "rha256", "debug": "ebug"}):
    damaged = path.read_text()
    for old, new in changes.items():
      damaged = damaged.replace(old, new)
    (tmp_path / "damaged.json").write_text(damaged)
    with pytest.raises(files.DamagedFileError, match=r"damaged\.json is damaged .*'sha256'"):
      files.read_json(tmp_path / "damaged.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00", "[" * 100_000])
def test_what_is_no_json_object_is_damage(tmp_path, text):
  (tmp_path / "a.json").write_text(text)
  with pytest.raises(files.DamagedFileError, match=r"a\.json is damaged"):
    files.read_json(tmp_path / "a.json")


def test_sums_are_those_of_the_usual_tool_and_name_what_changed(tmp_path):
  for name in ("one.npz", "sub/two.pb"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  files.write_sums(tmp_path, ["sub/two.pb", "one.npz"])
  lines = (tmp_path / files.SUMS).read_text().splitlines()
  assert [line.split("  ")[1] for line in lines[:-1]] == ["one.npz", "sub/two.pb"]
  assert files.check_sums(tmp_path) == []
  (tmp_path / "one.npz").write_text("other")
  (tmp_path / "sub/two.pb").unlink()
  changed, missing = files.check_sums(tmp_path)
  assert (changed.path, missing.path) == (tmp_path / "one.npz", tmp_path / "sub/two.pb")
  assert "not the one" in str(changed) and "missing" in str(missing)
  for text in ("d2a6  one.npz\n# 1 files\n", lines[0] + "\n", "".join(lines[:-1])):  # Or cut off.
    (tmp_path / files.SUMS).write_text(text)
    assert files.check_sums(tmp_path)[0].path == tmp_path / files.SUMS
  (tmp_path / files.SUMS).write_text("")
  assert files.check_sums(tmp_path)
  (tmp_path / files.SUMS).unlink()
  with pytest.raises(FileNotFoundError):
    files.check_sums(tmp_path)


def test_nothing_that_waits_or_measures_looks_at_the_clock_of_the_day():
  """It jumps; `time.monotonic` does not."""
  found = [
    f"{path.relative_to(_ROOT)}:{node.lineno}"
    for folder in ("wm_tf", "trainers")
    for path in sorted((_ROOT / folder).rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns")
  ]
  assert not found
