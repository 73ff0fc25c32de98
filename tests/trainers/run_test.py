"""Whole runs of the debug preset on the real environment: results, resuming, workdirs."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.workdirs import RUN, contents, read_json
from wm_tf import load_run
from wm_tf.runs import collection, integrity

_ROOT = Path(__file__).resolve().parents[2]
_SCORES = (
  "random",
  "heuristic",
  "controller_in_model",
  "controller_in_environment",
  "planner_in_environment",
)


# A machine that is busy with other things needs its time.
pytestmark = pytest.mark.timeout(1200)


def _wait_until(condition, timeout: float = 120.0) -> None:
  end = time.monotonic() + timeout
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


# --- What a quickstart leaves ------------------------------------------------------------------


def test_results_hold_every_figure(finished):
  results = read_json(finished / "results.json")
  for name in _SCORES:
    score = results[name]
    assert {"mean", "std", "n", "seeds", "seconds"} <= score.keys()
    assert score["n"] == len(score["seeds"]) == len(score["returns"]) > 0
    assert score["mean"] == pytest.approx(np.mean(score["returns"]), abs=1e-2)
    assert score["std"] == pytest.approx(np.std(score["returns"]), abs=1e-2)
    assert score["seconds"] > 0
  assert results["vae"].keys() >= {"sse", "sse_mean_image", "kl", "active_dimensions", "parts"}
  assert np.isfinite(results["dynamics"]["nll_per_dimension"])
  assert results["heuristic"]["mean"] > 150 > results["random"]["mean"]  # The real environment.
  agents = ("random", "heuristic", "controller_in_environment")
  assert len({tuple(results[name]["seeds"]) for name in agents}) == 1


def test_evaluation_seeds_are_never_trained_or_chosen_on(finished):
  results = read_json(finished / "results.json")
  evaluated = {
    s for name in _SCORES if name != "controller_in_model" for s in results[name]["seeds"]
  }
  manifests = [read_json(path) for path in finished.glob("data/*/manifest.json")]
  collected = {e["seed"] for m in manifests for shard in m["shards"] for e in shard["episodes"]}
  validations = [read_json(p) for p in sorted(finished.glob("controller/*/validation.json"))]
  validated = {s for v in validations for s in v["controller_in_environment"]["seeds"]}
  assert len(manifests) == 4 and len(collected) == results["data"]["episodes"] == 8
  iterations = [v | {"episodes": n} for v, n in zip(validations, (6, 8), strict=True)]
  assert len(validated) == 1 and iterations == results["iterations"]
  assert not evaluated & (collected | validated) and not validated & collected


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_best_controller_collects_its_share_of_the_episodes(finished, monkeypatch, share):
  run = load_run(finished)
  settings = dataclasses.replace(run.config.collect, best_controller=share)
  run.config = dataclasses.replace(run.config, collect=settings)
  monkeypatch.setattr(run, "best_iteration", lambda last: min(last, 0))
  actor = collection.controllers(run, 2)
  played = collections.Counter(actor.choice(seed) for seed in range(400))
  assert sum(played.values()) == 400
  assert abs(played["controller_000"] - 400 * share) < 40
  # Where the newest one is the best one it plays alone.
  monkeypatch.setattr(run, "best_iteration", lambda last: last)
  assert collection.controllers(run, 2).choice(0) == "controller_001"


def test_report_shows_all_without_a_network(finished):
  page = (finished / "report.html").read_text()
  # Pages may be linked to; nothing is loaded but from the page itself.
  assert "default-src 'none'" in page
  assert not re.search(
    r"""(src|srcset|data)\s*=\s*["'](?!data:)|url\((?!#)|@import|<link\b""", page
  )
  for name, kind in (("film_strip.png", "png"), ("animation.gif", "gif")):
    assert (finished / "figures" / name).stat().st_size > 1000
    assert f"data:image/{kind};base64," in page
  results = read_json(finished / "results.json")
  for name in _SCORES:
    assert f"{results[name]['mean']:.0f}".lstrip("-") in page


def test_output_shows_rates_and_the_table(finished):
  output = finished.with_name("output").read_text()
  for label in ("collect 000", "fit VAE 000", "encode 000", "fit dynamics 000", "evolve 000"):
    assert re.search(rf"^{label}: .*/s, .* elapsed", output, re.M), label
  for label in ("validate 001", "random", "heuristic", "controller", "served planner"):
    assert re.search(rf"^{label}: .* episode/s, .* elapsed, return=", output, re.M), label
  assert "served planner, in the environment" in output and "report.html" in output


_ONLY_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf

exports, frames, answers = sys.argv[1:]
frames, found = np.load(frames), {}
for name in ("controller", "planner", "world_model"):
  model = tf.saved_model.load(f"{exports}/{name}/1")
  seed = tf.constant([[1, 2]])
  state = model.signatures["initial_state"](seed=seed)
  for step, frame in enumerate(frames if name != "world_model" else ()):
    outputs = model.signatures["act"](frame=frame[None], seed=seed + step, **state)
    state = {key: outputs[key] for key in state}
    found[f"{name}/{step}"] = outputs["agent_action"]
assert not [name for name in sys.modules if name.split(".")[0] in ("wm_tf", "trainers", "serving")]
np.savez(answers, **found)
"""


def test_exports_act_alike_where_only_tensorflow_is(finished, tmp_path):
  import tensorflow as tf

  from wm_tf.data import rollouts
  from wm_tf.runs.run import Run

  (episode, _), *_ = rollouts.read_episodes(finished / "data" / "000")
  np.save(tmp_path / "frames.npy", episode.observation[:3])
  # -I: neither the working directory nor PYTHONPATH leads to the project.
  subprocess.run(
    [sys.executable, "-I", "-c", _ONLY_TENSORFLOW, str(finished / "export"), "frames.npy", "a.npz"],
    cwd=tmp_path,
    check=True,
  )
  found = np.load(tmp_path / "a.npz")
  best = read_json(finished / "results.json")["chosen_iteration"]
  run = Run(finished, preset="debug")
  for name in ("controller", "planner"):
    agent = run.agent(name, best)
    state = agent.initial_state(1)
    for step, frame in enumerate(episode.observation[:3]):
      action, state = agent.act(tf.constant(frame[np.newaxis]), state, tf.constant([[1, 2]]) + step)
      np.testing.assert_allclose(found[f"{name}/{step}"], action, atol=1e-5)


# --- The other trainers ------------------------------------------------------------------------


def test_every_trainer_finds_its_part_done(launcher, finished, copy):
  for name in ("collect", "train_vae", "train_dynamics", "train_controller"):
    output = launcher.run(f"trainers.{name}", *RUN, "--iteration=1", workdir=copy)
    assert re.search(r"1 of 1 episodes are there|done before", output), output
  assert "000: done before" in launcher.run("trainers.iterate", *RUN, workdir=copy)
  assert "Exported to" in launcher.run("trainers.export", workdir=copy)
  output = launcher.run("trainers.quickstart", *RUN, workdir=copy)
  assert "controller_in_environment: measured before" in output and "Exported" not in output
  assert contents(copy) == contents(finished)


@pytest.mark.slow
def test_evaluates_any_agent_with_the_figures_of_the_quickstart(launcher, finished, tmp_path):
  results = read_json(finished / "results.json")

  output = tmp_path / "output.json"

  def evaluate(agent, *flags):
    flags = (f"--agent={agent}", f"--output={output}", *flags)
    return launcher.run("trainers.evaluate", *flags, workdir=finished), read_json(output)

  seeds = results["planner_in_environment"]["seeds"]
  first = f"--seeds={seeds[0]}"
  for name in ("random", "heuristic"):
    _, found = evaluate(name, *RUN, first)
    assert found[name]["returns"] == results[name]["returns"][:1]

  printed, found = evaluate("controller", "--episodes=2")
  for name in ("controller_in_model", "controller_in_environment"):
    assert found[name]["returns"] == results[name]["returns"]
  gap = found["controller_in_model"]["mean"] - found["controller_in_environment"]["mean"]
  assert re.search(rf"gap \(model - environment\) +{gap:.1f}\n", printed)

  gif = tmp_path / "new" / "drive.gif"
  printed, found = evaluate("planner", first, "--noin_model", f"--render={gif}")
  assert found.keys() == {"planner_in_environment"} and "gap" not in printed
  assert gif.read_bytes().startswith(b"GIF89a") and gif.stat().st_size > 10_000

  seeds_of_random = ",".join(map(str, results["random"]["seeds"]))
  _, found = evaluate(finished / "export" / "controller", *RUN, f"--seeds={seeds_of_random}")
  expected = results["controller_in_environment"]["returns"]
  assert found["controller_in_environment"]["returns"] == expected

  server = launcher.start(
    "serving.server",
    "--port=0",
    "--model_name=planner",
    f"--model_base_path={finished / 'export' / 'planner'}",
  )
  try:
    _wait_until(lambda: " at " in server.output or not server.process.is_alive())
    address = re.search(r" at (\S+:\d+)", server.output)[1]
    _, found = evaluate(f"grpc://{address}/planner", *RUN, first)
  finally:
    server.kill()
  assert found["planner_in_environment"]["returns"] == results["planner_in_environment"]["returns"]


# --- Resuming ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_ends_the_same_however_often_it_is_killed(launcher, finished, tmp_path):
  """One run, by one trainer after another, each killed at a random write and started again.

  KILL_SEED in the environment chooses other moments.
  """
  writes = finished.with_name("writes").read_text().splitlines()
  chance = random.Random(int(os.environ.get("KILL_SEED", 0)))
  workdir = tmp_path / "run"
  for trainer, within in (
    ("collect", r"data/000"),
    ("iterate", r"(vae|latents|dynamics|controller)/000"),
    ("iterate", r"(data|vae|latents|dynamics|controller)/001"),
    ("quickstart", r"rename export/"),
    ("quickstart", r"rename results.json"),  # What the served planner scored.
  ):
    moment = chance.choice([line for line in writes if re.search(within, line)])
    output = launcher.run(f"trainers.{trainer}", *RUN, workdir=workdir, kill_at=moment, expected=-9)
    children = [int(pid) for pid in re.findall(r"\d+", output.splitlines()[-1])]
    if trainer not in ("iterate", "quickstart"):  # Those are killed again before they are done.
      launcher.run(f"trainers.{trainer}", *RUN, workdir=workdir)
  (server,) = children  # The model server, which must not stay behind.
  _wait_until(lambda: not Path(f"/proc/{server}").exists())
  output = launcher.run("trainers.quickstart", *RUN, workdir=workdir)
  assert "fit vae 001: done before" in output and "random: measured before" in output
  assert contents(workdir) == contents(finished)


@pytest.mark.slow
def test_networks_end_the_same_when_killed(launcher, finished, tmp_path):
  """Another controller on the models of the finished run: from scratch, and from that one on.

  With no VAE refit the second iteration goes on from the first one's networks. Its data and models
  are those of the whole run, so that only the controllers are trained again.
  """
  flags = (*RUN, "--method=actor_critic", "--override=num_vae_refits=0")
  run_json = read_json(finished / "run.json")
  run_json["config"]["controller"]["method"] = "actor_critic"
  run_json["config"]["num_vae_refits"] = 0
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  for folder in ("data", "vae/000", "latents/000", "dynamics/000"):
    shutil.copytree(finished / folder, whole / folder)
  (whole / "run.json").write_text(json.dumps(run_json))
  launcher.run("trainers.iterate", *flags, workdir=whole)
  rows = (whole / "controller/001/metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["step"] for row in rows] == list(range(1, 12))

  shutil.copytree(whole, killed)
  shutil.rmtree(killed / "controller")
  for iteration in (0, 1):
    command = ("trainers.train_controller", *flags, f"--iteration={iteration}")
    last = f"rename controller/{iteration:03d}/controller.npz"  # After the checkpoint of step 10.
    launcher.run(*command, workdir=killed, kill_at=last, expected=-9)
    launcher.run(*command, workdir=killed)
  assert contents(killed) == contents(whole)
  assert "controller/001/controller.npz" in contents(whole)
  quality = read_json(whole / "controller" / "001" / "quality.json")
  assert set(quality) == {"critic", "monte_carlo", "monte_carlo_error", "clipped", "saturated"}
  assert 0 <= quality["clipped"] <= 1 and 0 <= quality["saturated"] <= 1
  assert load_run(whole).controller_quality(1) == {"controller": quality}


# --- Workdirs ----------------------------------------------------------------------------------


def test_a_workdir_of_another_run_is_refused(launcher, finished):
  def refused(*flags):
    return launcher.run("trainers.iterate", *flags, workdir=finished, expected=1)

  output = refused(*RUN, "--override=controller.population_size=9")
  assert "holds a run with controller.population_size = 8, and now it is 9" in output
  assert "holds a run with seed = 0, and now it is 1" in refused(*RUN, "--seed=1")
  assert "preset = 'debug', and now it is 'default' (" in refused()
  assert "Traceback" not in output


def test_quickstart_sets_a_run_of_another_seed_aside_and_takes_it_up_again(
  launcher, finished, copy
):
  aside = copy.with_name("run.seed0")
  other = launcher.start("trainers.quickstart", *RUN, "--seed=1", workdir=copy)

  def began():
    return aside.exists() and (copy / "data" / "000" / "manifest.json").exists()

  _wait_until(lambda: began() or other.exited)
  other.kill()
  assert f"The run of seed 0 in {copy} is now in {aside}." in other.output
  assert contents(aside) == contents(finished)
  assert read_json(copy / "run.json")["seed"] == 1

  output = launcher.run("trainers.quickstart", *RUN, workdir=copy)
  assert f"The run of seed 0 in {aside} is now in {copy}." in output
  assert contents(copy) == contents(finished)
  assert read_json(copy.with_name("run.seed1") / "run.json")["seed"] == 1


def test_a_second_process_is_refused(launcher, tmp_path):
  flags = (*RUN, "--override=collect.num_episodes=100")
  first = launcher.start("trainers.collect", *flags, workdir=tmp_path / "run")
  _wait_until(lambda: (tmp_path / "run" / "run.json").exists() or first.exited)
  for trainer, seed in (("collect", 0), ("quickstart", 1)):
    output = launcher.run(
      f"trainers.{trainer}", *flags, f"--seed={seed}", workdir=tmp_path / "run", expected=1
    )
    assert f"is in use by process {first.process.pid}." in output
  first.kill()


def test_a_failed_quality_gate_ends_a_run_unless_forced(launcher, finished, copy):
  assert "(going on: quality_gates=False)" in finished.with_name("output").read_text()
  strict = (*RUN, "--override=quality_gates=True")
  run_json = read_json(copy / "run.json")
  run_json["config"]["quality_gates"] = True
  (copy / "run.json").write_text(json.dumps(run_json))
  for trainer in ("train_vae", "iterate"):
    output = launcher.run(f"trainers.{trainer}", *strict, workdir=copy, expected=1)
    assert "error: The VAE has not learned" in output and "--force goes on" in output
    assert "Traceback" not in output
  output = launcher.run("trainers.train_vae", *strict, "--force", workdir=copy)
  assert "The VAE has not learned" in output and "sse_mean_image" in output
  assert "(going on: --force)" in output


@pytest.mark.parametrize(
  ("damaged", "command", "missing"),
  [
    ("data/000/shard-00001.tfrecord", "train_vae", "vae"),
    ("latents/000/000/shard-00000.rows", "train_controller", "controller"),
    ("vae/000/weights.npz", "train_dynamics", "dynamics"),
    ("dynamics/000/weights.npz", "train_controller", "controller"),
    ("controller/000/controller.npz", "collect --iteration=1", "data/001"),
    ("controller/001/validation.json", "export", "export"),
    ("export/controller/1/config.json", "export", "export/planner"),
    ("export/planner/1/saved_model.pb", "export", "export/world_model"),
    ("data/000_random/manifest.json", "train_vae", "vae"),
    ("run.json", "iterate", "vae"),
  ],
)
def test_damage_is_named(launcher, copy, damaged, command, missing):
  shutil.rmtree(copy / missing)  # To be made again, from what is damaged.
  content = bytearray((copy / damaged).read_bytes())
  content[len(content) // 2] ^= 0xFF
  (copy / damaged).write_bytes(content)
  trainer, *flags = command.split()
  output = launcher.run(f"trainers.{trainer}", *RUN, *flags, workdir=copy, expected=1)
  message = output[output.index("error: ") :]
  assert str(copy / damaged) in message and "Traceback" not in output


def test_check_names_what_is_damaged_and_makes_way_for_it(launcher, finished, copy):
  assert not list(integrity.problems(copy))
  damaged = (
    "data/001/shard-00000.tfrecord",
    "export/controller/1/saved_model.pb",
    "controller/001/validation.json",
  )
  for name in (*damaged, "data/000/manifest.json", "vae/000/metrics.jsonl", "results.json"):
    sound = (copy / name).read_bytes()
    content = bytearray(sound)
    content[len(content) // 2] ^= 0x55
    (copy / name).write_bytes(content)
    texts = [problem.text for problem in integrity.problems(copy)]
    assert any(str(copy / name) in text for text in texts), (name, texts)
    if name not in damaged:
      (copy / name).write_bytes(sound)
  for folder in (copy / "vae/000", copy / "controller/000"):
    for path in (path for path in folder.glob("*") if path.suffix in (".npz", ".jsonl")):
      sound = path.read_bytes()
      path.unlink()
      assert any(str(path) in problem.text for problem in integrity.problems(copy)), path
      path.write_bytes(sound)
  output = launcher.run("trainers.check", workdir=copy, expected=1)
  assert all(str(copy / name) in output for name in damaged) and "Traceback" not in output
  output = launcher.run("trainers.check", "--remove", workdir=copy)
  assert f"Removed {copy / 'export/controller/1'}." in output
  launcher.run("trainers.quickstart", *RUN, workdir=copy)
  assert not list(integrity.problems(copy))
  assert contents(copy) == contents(finished)


def test_weights_that_were_removed_are_fitted_again(launcher, finished, copy):
  (copy / "vae/000/weights.npz").unlink()
  launcher.run("trainers.train_vae", *RUN, workdir=copy)
  assert contents(copy) == contents(finished)
