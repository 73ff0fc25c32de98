"""SIGKILL at random moments, over and over; then the command again, to the end.

The end must be that of the run that was left alone, bit for bit, and after every kill
`trainers.check` must find the workdir sound: what a kill leaves is unfinished, not damaged.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.faults.suite import Stage, Suite
from tests.trainers.workdirs import contents
from trainers import check
from wm_tf import config
from wm_tf.data import rollouts

# Kills of each command, or of `train_controller` by a method; 57 in all.
_KILLS = {
  "collect": 10,
  "train_vae": 8,
  "train_dynamics": 8,
  "train_controller": 6,
  "actor_critic": 6,
  "ppo": 4,
  "iterate": 5,
  "export": 3,
  "quickstart": 4,
  "evaluate": 3,
}
_KILLS_A_RUN = 5


def run(suite: Suite) -> None:
  """Kills every command its number of times."""
  for name, number in _KILLS.items():
    if name in config.METHODS:
      stage, flags = _trained_by(suite, name)
    elif name == "evaluate":
      _kill_evaluations(suite, number)
      continue
    else:
      stage, flags = suite.stage(name), ()
    _kill_stage(suite, name, stage, flags, number)
  suite.expect(suite.counts["kills"] >= 50, f"only {suite.counts['kills']} kills")


def _kill_stage(suite: Suite, what: str, stage: Stage, flags: tuple[str, ...], number: int) -> None:
  done = attempts = 0
  while done < number and attempts < 4 * number:
    attempts += 1
    workdir = suite.copy(stage.before, "killed")
    landed = []
    for _ in range(min(_KILLS_A_RUN, number - done)):
      # Earlier and earlier, since less and less is left to do.
      delay = suite.random.uniform(0.0, stage.seconds) * 0.8 ** len(landed)
      started = time.monotonic()
      trainer = suite.start(stage.name, workdir, *flags)
      trainer.process.join(delay)
      if trainer.exited:  # The machine is less busy than when it was timed.
        stage.seconds = min(stage.seconds, time.monotonic() - started)
        break
      trainer.kill()
      landed.append(delay)
      suite.count("kills")
      suite.no_survivors(trainer, what)
      _is_sound(suite, workdir, f"{what} killed after {landed}")
    done += len(landed)
    suite.run(stage.name, workdir, *flags)
    moments = ", ".join(f"{delay:.2f}" for delay in landed) or "none"
    if suite.same(workdir, stage.contents, f"{what} killed after {moments} s"):
      suite.say(f"{what}: killed after {moments} s of {stage.seconds:.1f}; ends the same")
    if what in ("export", "quickstart"):
      _answers_alike(suite, workdir)
  suite.expect(done >= number, f"{what}: only {done} of {number} kills found it running")


def _is_sound(suite: Suite, workdir: Path, what: str) -> None:
  if not (workdir / "run.json").exists():
    return
  # Between a stage's last file and its checksums, which the same command then adds.
  found = [p.text for p in check.problems(workdir) if "SHA256SUMS is missing" not in p.text]
  suite.expect(not found, f"{what}: {found}")


def _trained_by(suite: Suite, method: str) -> tuple[Stage, tuple[str, ...]]:
  """`train_controller` by another method than evolution, on the models that there are."""
  flags = (f"--override=controller.method={method}",)
  before = suite.copy(suite.stage("train_controller").before, f"before_{method}")
  suite.describe(before, *flags)
  workdir = suite.copy(before, method)
  started = time.monotonic()
  suite.run("train_controller", workdir, *flags)
  seconds = time.monotonic() - started
  return Stage("train_controller", before, contents(workdir), seconds, []), flags


def _answers_alike(suite: Suite, workdir: Path) -> None:
  """Whether exports answer as those of the undisturbed run do, bit for bit."""
  (episode, _), *_ = rollouts.read_episodes(workdir / "data/000")
  for name in ("controller", "planner"):
    actions = [
      _actions(folder / "export" / name / "1", episode.observation[:3])
      for folder in (suite.finished, workdir)
    ]
    suite.expect(np.array_equal(*actions), f"the exported {name} answers otherwise")


def _actions(export: Path, frames: np.ndarray) -> np.ndarray:
  model = tf.saved_model.load(str(export))
  seed = tf.constant([[1, 2]])
  state = model.signatures["initial_state"](seed=seed)
  actions = []
  for frame in frames:
    outputs = model.signatures["act"](frame=frame[None], seed=seed, **state)
    state = {key: outputs[key] for key in state}
    actions.append(outputs["agent_action"].numpy())
  return np.array(actions)


def _kill_evaluations(suite: Suite, number: int) -> None:
  """An evaluation keeps nothing but its result, which is there whole or not at all."""
  output = suite.folder / "output.json"
  flags = ("--agent=controller", "--episodes=1", f"--output={output}")

  def returns():
    scores = json.loads(output.read_text())
    return {name: score["returns"] for name, score in scores.items()}

  suite.run("evaluate", suite.finished, *flags)
  expected, seconds = returns(), suite.stage("collect").seconds
  before = contents(suite.finished)
  done = 0
  for _ in range(4 * number):
    if done == number:
      break
    output.unlink(missing_ok=True)
    trainer = suite.start("evaluate", suite.finished, *flags)
    started = time.monotonic()
    trainer.process.join(suite.random.uniform(0.0, seconds))
    if trainer.exited:
      seconds = min(seconds, time.monotonic() - started)
      continue
    trainer.kill()
    done += 1
    suite.count("kills")
    suite.no_survivors(trainer, "evaluate")
    if output.exists():
      suite.expect(returns() == expected, "evaluate: killed, it left other results")
  suite.run("evaluate", suite.finished, *flags)
  suite.expect(returns() == expected, "evaluate: other results after kills")
  suite.same(suite.finished, before, "evaluate: it changed the run")
  suite.expect(done == number, f"evaluate: only {done} of {number} kills found it running")
  suite.say(f"evaluate: killed {done} times; answers the same")
