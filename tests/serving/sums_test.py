"""Verification of a version folder against its SHA256SUMS."""

import pytest

from serving import sums
from wm_tf import files


@pytest.fixture
def folder(tmp_path):
  for name in ("config.json", "saved_model.pb"):
    (tmp_path / name).write_text(name)
  files.write_sums(tmp_path, ["config.json", "saved_model.pb"])
  assert sums.damage(str(tmp_path)) is None
  return tmp_path


def test_a_list_that_is_cut_off_anywhere_is_damage(folder):
  text = (folder / "SHA256SUMS").read_text()
  for length in range(len(text) - 1):  # Without the final newline it still holds everything.
    (folder / "SHA256SUMS").write_text(text[:length])
    line = sums.damage(str(folder))
    assert line == "SHA256SUMS is cut off or damaged: its last line is not the number of files"


def test_a_changed_list_or_file_is_damage(folder):
  text = (folder / "SHA256SUMS").read_text()
  (folder / "SHA256SUMS").write_text(text.replace("  config", " config"))
  assert sums.damage(str(folder)).startswith("SHA256SUMS is damaged: it holds '")
  (folder / "SHA256SUMS").write_text(text)
  (folder / "config.json").write_text("changed")
  assert sums.damage(str(folder)).startswith("config.json does not have the checksum in SHA256SUMS")
  (folder / "config.json").unlink()
  assert "config.json, which SHA256SUMS lists, cannot be read" in sums.damage(str(folder))
  (folder / "SHA256SUMS").unlink()
  assert sums.damage(str(folder)) is None
