"""SIGKILL at random moments, over and over; then the command again, to the end.

The end must be that of the run that was left alone, bit for bit, and after every kill
`trainers.check` must find the workdir sound: what a kill leaves is unfinished, not damaged.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.faults.suite import STAGES, Stage, Suite, Task
from wm_tf.data import rollouts
from wm_tf.runs import integrity

_KILLS_A_RUN = 5
# Beside other tasks a command takes longer than when it was timed.
_BUSY = 1.5


def kill(suite: Suite, name: str, number: int, flags: tuple[str, ...] = ()) -> None:
  """Kills a command of the undisturbed run, or another one that goes on from it, so many times."""
  stage = suite.stage(name) if name in STAGES and not flags else another(suite, name, flags)
  seconds = _BUSY * stage.seconds
  done = attempts = 0
  while done < number and attempts < 4 * number:
    attempts += 1
    workdir = suite.copy(stage.before, "killed")
    landed = []
    for _ in range(min(_KILLS_A_RUN, number - done)):
      # Earlier and earlier, since less and less is left to do.
      delay = suite.random.uniform(0.0, seconds) * 0.8 ** len(landed)
      started = time.monotonic()
      trainer = suite.start(name, workdir, *flags)
      trainer.process.join(delay)
      if trainer.exited:
        if not landed:  # All of it takes no longer.
          seconds = min(seconds, time.monotonic() - started)
        break
      trainer.kill()
      landed.append(delay)
      suite.count("kills")
      suite.no_survivors(trainer, name)
      _is_sound(suite, workdir, f"{name} killed after {landed}")
    done += len(landed)
    suite.run(name, workdir, *flags)
    moments = ", ".join(f"{delay:.2f}" for delay in landed) or "none"
    if suite.same(workdir, stage.contents, f"killed after {moments} s"):
      suite.say(f"killed after {moments} s of {seconds:.1f}; ends the same")
    if name in ("export", "quickstart"):
      _answers_alike(suite, workdir)
  suite.expect(done >= number, f"only {done} of {number} kills found it running")


def _is_sound(suite: Suite, workdir: Path, what: str) -> None:
  if not (workdir / "run.json").exists():
    return
  # Between a stage's last file and its checksums, which the same command then adds.
  found = [p.text for p in integrity.problems(workdir) if "SHA256SUMS is missing" not in p.text]
  suite.expect(not found, f"{what}: {found}")


def another(suite: Suite, name: str, flags: tuple[str, ...]) -> Stage:
  """A stage with flags of its own, or one that the undisturbed run does not have."""
  before = None
  if name != "train_agent":  # It begins with an empty workdir.
    before = suite.copy(suite.stage(name).before if name in STAGES else suite.finished, "before")
    suite.describe(before, *flags)
  after, writes = suite.copy(before, "after"), suite.folder / "writes"
  started = time.monotonic()
  suite.run(name, after, *flags, writes=writes)
  seconds = time.monotonic() - started
  return Stage(name, before, after, seconds, tuple(writes.read_text().splitlines()))


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
  workdir, output = suite.copy(suite.finished, "run"), suite.folder / "output.json"
  flags = ("--agent=controller", "--episodes=1", f"--output={output}")

  def returns():
    scores = json.loads(output.read_text())
    return {name: score["returns"] for name, score in scores.items()}

  started = time.monotonic()
  suite.run("evaluate", workdir, *flags)
  expected, seconds = returns(), time.monotonic() - started
  done = 0
  for _ in range(4 * number):
    if done == number:
      break
    output.unlink(missing_ok=True)
    trainer = suite.start("evaluate", workdir, *flags)
    trainer.process.join(suite.random.uniform(0.0, seconds))
    if trainer.exited:
      continue
    trainer.kill()
    done += 1
    suite.count("kills")
    suite.no_survivors(trainer, "evaluate")
    if output.exists():
      suite.expect(returns() == expected, "killed, it left other results")
  suite.run("evaluate", workdir, *flags)
  suite.expect(returns() == expected, "other results after kills")
  suite.same(workdir, suite.stage("quickstart").contents, "it changed the run")
  suite.expect(done == number, f"only {done} of {number} kills found it running")
  suite.say(f"killed {done} times; answers the same")


def _task(name: str, number: int, seconds: float, *flags: str) -> Task:
  return Task(functools.partial(kill, name=name, number=number, flags=flags), seconds)


# Of the preset's, it would spend most of the time driving.
_SHORT_FINISH = (
  "--override=finish.num_generations=2",
  "--override=finish.num_seeds=1",
  "--override=finish.validate_every=1",
  "--override=finish.validation_episodes=1",
)
_METHOD = "--override=controller.method="

TASKS = {
  "collect": _task("collect", 10, 30),
  "train_vae": _task("train_vae", 8, 25),
  "train_dynamics": _task("train_dynamics", 8, 40),
  "train_controller": _task("train_controller", 6, 60),
  "actor_critic": _task("train_controller", 6, 100, f"{_METHOD}actor_critic"),
  "ppo": _task("train_controller", 4, 50, f"{_METHOD}ppo"),
  "reinforce": _task("train_controller", 2, 30, f"{_METHOD}reinforce"),
  "iterate": _task("iterate", 5, 90),
  "finish": _task("finish", 4, 60, *_SHORT_FINISH),
  "export": _task("export", 3, 20),
  "quickstart": _task("quickstart", 4, 80),
  "evaluate": Task(functools.partial(_kill_evaluations, number=3), 15),
}
