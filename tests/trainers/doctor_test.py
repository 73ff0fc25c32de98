"""The doctor on a small real run: what it leaves, that it only reads, that it goes on."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest

from tests.trainers.workdirs import RUN, read_json, snapshot
from wm_tf.evaluation import transfer
from wm_tf.report import verdicts

pytestmark = pytest.mark.timeout(1200)  # A machine that is busy with other things needs its time.

_FLAGS = ("--num_controllers=5", "--num_dreams=3", "--held_out_episodes=4")


def _examine(launcher, workdir, output, *flags, **options) -> str:
  return launcher.run(
    "trainers.doctor", *_FLAGS, f"--output={output}", *flags, workdir=workdir, **options
  )


@pytest.mark.slow
def test_a_diagnosis_from_beginning_to_end(launcher, finished, tmp_path):
  before, output = snapshot(finished), tmp_path / "out"
  killed = launcher.start(
    "trainers.doctor",
    *_FLAGS,
    "--episodes=1",
    f"--output={output}",
    f"--workdir={finished}",
    workdir=output,  # Says only where writes are watched.
    kill_at="rename doctor.json",
  )
  assert killed.wait() < 0, killed.output
  assert not (output / "doctor.json").exists()
  played = read_json(output / "real_returns.json")
  assert [len(entry["returns"]) for entry in played.values()] == [1] * 5
  for entry in played.values():  # What no real episode brings: it would not come back if played.
    entry["returns"] = dict.fromkeys(entry["returns"], 12345.0)
  (output / "real_returns.json").write_text(json.dumps(played))

  said = _examine(launcher, finished, output, "--episodes=2")
  assert snapshot(finished) == before, "the doctor may only read"
  kept = read_json(output / "real_returns.json")
  assert [sorted(e["returns"].values())[1] for e in kept.values()] == [12345.0] * 5
  assert max(min(entry["returns"].values()) for entry in kept.values()) < 1000.0
  assert re.search(r"play controllers: 10/10, ", said), said

  results = read_json(output / "doctor.json")
  _check_results(results, kept)
  _check_words(said, results)
  page = (output / "doctor.html").read_text()
  assert page.count("data:image/png;base64,") == 3
  for check in results["checks"]:
    assert html.escape(check["words"]) in page
  for name in ("drive", "actions", "promise"):
    assert (output / f"film_strip_{name}.png").read_bytes().startswith(b"\x89PNG")


def _check_results(results, kept):
  assert results["env_id"] == "CarRacing-v3"
  controllers = results["controllers"]
  assert len(controllers) == 5
  chosen = f"iteration {results['iteration']}"
  other = f"iteration {1 - results['iteration']}"
  assert [row["name"] for row in controllers[:3]] == [chosen, other, "nothing"]
  assert [row["original"] for row in controllers] == [True, True, False, False, False]
  by_name = {entry["name"]: entry["returns"] for entry in kept.values()}
  for row in controllers:
    assert row["returns"] == [by_name[row["name"]][str(seed)] for seed in results["seeds"]]
    assert row["real"] == pytest.approx(np.mean(row["returns"]), abs=1e-3)
  means = [[row[key] for row in controllers] for key in ("dream", "real")]
  expected = transfer.rank_correlation(*map(np.array, means))
  assert results["transfer"]["rank_correlation"] == pytest.approx(expected)
  assert results["dynamics"]["rank_correlation"] == results["transfer"]["rank_correlation"]
  by_length = {
    int(length): value for length, value in results["rank_correlation_by_length"].items()
  }
  *shorter, whole = by_length
  assert shorter == [10, 30, whole // 2] and by_length[whole] == pytest.approx(expected)
  assert results["controller_in_environment"]["mean"] == pytest.approx(controllers[0]["real"])
  assert results["controller_in_model"]["n"] == 3
  for section in ("vae", "open_loop", "action_sensitivity"):
    assert results[section]
  assert results["reward_calibration"]["count"] == results["termination_calibration"]["count"] > 30
  assert set(results["action_sensitivity"]) == {"4", "10"}
  assert {check["verdict"] for check in results["checks"]} <= {
    verdicts.GOOD,
    verdicts.USABLE,
    verdicts.POOR,
    verdicts.INFO,
    "not run",
  }


def _check_words(said: str, results):
  assert "Traceback" not in said
  for check in results["checks"]:
    assert f"{check['name']}: {check['value']}" in said
  for title in ("steps dreamed", "PSNR of decoded images, dB", "R² of the return so far"):
    assert title in said


@pytest.mark.slow
def test_the_run_says_what_its_configuration_is(launcher, finished, tmp_path):
  output = tmp_path / "out"
  said = _examine(launcher, finished, output, "--preset=quickstart", expected=1)
  assert "holds a run of another configuration. Leave out --preset" in said
  said = _examine(launcher, finished, output, *RUN, "--iteration=7", expected=1)
  assert "dynamics/007/weights.npz does not exist" in said

  older = tmp_path / "older"  # Made before there was a field.
  older.mkdir()
  described = read_json(finished / "run.json")
  del described["config"]["planner"]["horizon"], described["config"]["evaluate"]
  (older / "run.json").write_text(json.dumps(described))
  said = _examine(launcher, older, output, expected=1)
  assert "has no validated controller" in said
  assert not output.exists() and "Traceback" not in said
