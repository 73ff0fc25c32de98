"""What the trainers say to whoever asks for help, or mistypes."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from trainers import errors

_ROOT = Path(__file__).resolve().parents[2]
_TRAINERS = sorted(
  path.stem
  for path in (_ROOT / "trainers").glob("*.py")
  if 'if __name__ == "__main__"' in path.read_text()
)
_NO_RUN = "holds no run; name its folder by --workdir, or run trainers.collect first."


def test_there_are_all_trainers():
  others = ["ablate", "check", "collect", "compare", "doctor", "evaluate", "export", "finish"]
  others += ["iterate", "plan_table", "quickstart"]
  trained = ["train_agent", "train_controller", "train_dynamics", "train_vae"]
  assert [*others, *trained] == _TRAINERS


@pytest.mark.parametrize("trainer", _TRAINERS)
def test_help_explains_and_gives_examples(launcher, trainer):
  text = launcher.run(f"trainers.{trainer}", "--help", expected=1)  # As absl has it.
  explanation, _, flags = text.partition("\nflags:\n")
  assert re.match(r"[A-Z].{20,}\.\n\n", explanation)
  examples = re.findall(r"^    python -m trainers\.(\w+) (.*)", explanation, re.M)
  assert {name for name, _ in examples} == {trainer}
  for flag in re.findall(r"--(\w+)", " ".join(arguments for _, arguments in examples)):
    assert re.search(rf"^  --(\[no\])?{flag}: \S", flags, re.M), flag
  for flag in ("preset", "workdir", "seed", "override", r"\[no\]force"):
    assert re.search(rf"^  --{flag}: \S", flags, re.M), flag


def test_quickstart_has_defaults_of_its_own(launcher):
  text = launcher.run("trainers.quickstart", "--help", expected=1)
  assert "(default: 'quickstart')" in text and "(default: 'runs/quickstart')" in text


def test_runs_by_python_m():
  done = subprocess.run(
    [sys.executable, "-m", "trainers.iterate", "--wrkdir=x"],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert "Unknown command line flag 'wrkdir'. Did you mean: workdir" in done.stderr
  assert not re.search(r"^[IWE]\d{4} ", done.stderr, re.M), "TensorFlow's own start-up lines"


@pytest.mark.parametrize(
  ("command", "message"),
  [
    ("collect --sed=1", "Unknown command line flag 'sed'. Did you mean: seed"),
    ("quickstart --version=2", "Unknown command line flag 'version'"),
    (
      "collect --preset=quikstart",
      "<default|quickstart|full|dreamer|dreamer_v1|dreamer_large|debug>",
    ),
    ("collect --seed=-1", "-1 is not a non-negative integer"),
    ("collect --iteration=first", "invalid literal for int"),
    ("collect now", "Unexpected arguments ['now']"),
    ("collect --override=dynamics.num_mixture=4", "did you mean dynamics.num_mixtures"),
    ("collect --override=collect.num_episodes=many", "'many' is not a value of type int"),
    ("collect --override=collect.held_out=2", "between 0 and 1, not 2.0"),
    ("collect --override=collect.num_workers=-1", "num_workers must be at least 0, not -1"),
    ("collect --override=evaluate.num_episodes=0", "num_episodes must be at least 1, not 0"),
    ("collect --override=dynamics.hidden_size=0", "hidden_size must be positive"),
    ("collect --override=dynamics_fit.sequence_length=1", "sequence_length must be at least 2"),
    ("collect --override=controller.dream.horizon=0", "horizon must be positive"),
    ("collect --override=planner.num_elites=65", "num_elites must be in [2, num_candidates = 64]"),
    ("collect --override=family=two_stages", "error: family: .* did you mean two_stage"),
    ("collect --override=environment=car_race", "did you mean car_racing"),
    (
      "collect --override=environment=no.such:Env",
      "environment=no.such:Env: .* cannot be imported: No module named",
    ),
    (
      "collect --override=collect.held=0 --override=collect.brownian=0"
      " --override=collect.heuristic=0",
      "error: collect: ",
    ),
    (
      "collect --environment=gym:Pendulum-v1 --override=collect.random_start=0.5",
      "gym:Pendulum-v1 has no option random_start; set collect.random_start=0.",
    ),
    (
      "collect --environment=gym:CartPole-v1 --override=collect.stop_after_idle_decisions=9",
      "gym:CartPole-v1 has no option stop_after_idle_decisions; set collect.stop_after_idle_dec",
    ),
    ("collect --environment=gym:Pendulm-v1", "did you mean Pendulum-v1"),
    (
      "collect --environment=gym:Acrobot-v1 --override=environment_options.action_repeats=2",
      "did you mean action_repeat or",
    ),
    (
      "collect --environment=gym:Acrobot-v1 --override=collect.num_episodes=1",
      "collect.num_episodes",
    ),
    ("collect --config=no/such/run.json", "--config=no/such/run.json is no run.json"),
    ("collect --iteration=1", _NO_RUN),
    ("train_agent --preset=quickstart", "online.num_steps=0, which is training by iterations"),
    ("train_agent --override=online.prefill=9", "online.prefill=9 and online.capacity=100000 must"),
    ("train_agent --method=es", "needs controller.method=actor_critic, not es"),
    ("iterate --family=rsm", "did you mean rssm"),
    # Without a preset the family stands for the preset `dreamer`.
    (
      "iterate --family=rssm --override=controller.actor_critic.reward_scale=None",
      "online.num_steps=20000 needs controller.actor_critic.reward_scale",
    ),
    ("train_vae", _NO_RUN),
    ("train_dynamics", _NO_RUN),
    ("train_controller", _NO_RUN),
    ("export", _NO_RUN),
    ("finish", _NO_RUN),
    ("plan_table", _NO_RUN),
    ("plan_table --rows=particle_1", "there is no such row; did you mean particles_1 or"),
    ("evaluate", _NO_RUN),
    ("doctor", _NO_RUN),
    ("ablate", _NO_RUN),
    ("compare", _NO_RUN),
    ("compare --methods=ppo,pop", "--methods=ppo,pop: it takes some of actor_critic, es, ppo"),
    ("compare --seconds=-1", "a non-negative number"),
    ("collect --method=pop", "should be one of <actor_critic|es|ppo|ppo_clip|reinforce>"),
    ("ablate --variants=z_onyl", "there is no such variant; did you mean z_only?"),
    ("doctor --num_controllers=3", "num_controllers"),
    ("doctor --episodes=0", "0 is not a positive integer"),
    ("evaluate --agent=heurstic", "holds no SavedModel.* Or did you mean heuristic"),
    ("evaluate --agent=random --render=drive.mp4", "it takes a .gif file"),
    ("evaluate --agent=grpcs://nowhere", "'grpcs://nowhere' is not of the form grpc://"),
    ("evaluate --agent=grpc://nowhere", "'grpc://nowhere' is not of the form grpc://"),
    ("evaluate --agent=random --seeds=1,two", "it takes distinct whole numbers"),
    ("evaluate --agent=random --seeds=²", "it takes distinct whole numbers"),
    ("check", "does not exist; name a run's folder"),
    ("evaluate --agent=random --seeds=3,3", "it takes distinct whole numbers"),
    ("evaluate --agent=random --episodes=0", "0 is not a positive integer"),
  ],
)
def test_mistakes_get_one_line_that_helps(launcher, tmp_path, command, message):
  trainer, *flags = command.split()
  output = launcher.run(f"trainers.{trainer}", *flags, workdir=tmp_path / "run", expected=1)
  assert re.search(message if ".*" in message else re.escape(message), output), output
  assert "Traceback" not in output
  assert not (tmp_path / "run").exists(), "a mistake must not claim a workdir"


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (
      OSError(errno.ENOSPC, "No space left on device", "a.npz"),
      r"'a\.npz'\. Make room on that disk",
    ),
    (OSError(errno.EROFS, "Read-only file system", "a.npz"), "Make it writable"),
    (
      tf.errors.ResourceExhaustedError(None, None, "shard.tmp; No space left on device"),
      r"shard\.tmp; No space .* Make room",
    ),
    (OSError(errno.ENOENT, "No such file or directory", "a.npz"), None),
    (tf.errors.InvalidArgumentError(None, None, "shapes"), None),
  ],
)
def test_a_disk_in_trouble_is_told_from_other_errors(error, message):
  found = errors.storage_error(error)
  assert found is None if message is None else re.search(message, found)
