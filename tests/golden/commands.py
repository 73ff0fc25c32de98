"""The commands whose results are golden, and the places of those results."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.trainers.launcher import Launcher

GOLDEN = Path(__file__).resolve().parent
RUN = GOLDEN / "run"
ACTOR_CRITIC = GOLDEN / "actor_critic"
PRETRAINED = GOLDEN.parents[1] / "pretrained" / "car_racing"

# A run that takes a minute: 55 decisions of four episodes, played by three kinds of policies.
FLAGS = (
  "--preset=debug",
  "--seed=4",
  *(
    f"--override={text}"
    for text in (
      "num_iterations=0",
      # As CarRacing's recipe was when the run was recorded.
      "dynamics.reward_bins=(-100.4, -0.4, 3.1, 6.6, 10.1, 13.6)",
      "controller.actor_critic.target_rate=0.02",
      "collect.num_episodes=4",
      "collect.stop_after_idle_decisions=3",
      "collect.held_out=0.62",
      "vae.encoder_filters=(4, 8, 8, 8)",
      "vae_fit.batch_size=8",
      "vae_fit.first.learning_rate=3e-3",
      "vae_fit.first.steps_per_epoch=4",
      "vae_fit.first.num_epochs=3",
      "dynamics_fit.sequence_length=8",
      "dynamics_fit.first.steps_per_epoch=3",
      # One: the next generation is drawn along eigenvectors of a nearly round distribution, which
      # are different on every kind of processor.
      "controller.num_generations=1",
      "controller.actor_critic.num_updates=3",
    )
  ),
)
METHODS = ("es", "actor_critic")
MODELS = ("controller", "planner", "world_model")

# Not part of a golden run: locks, logs, and what is compared on its own.
_IGNORED = shutil.ignore_patterns(".lock", "tensorboard", "export", "seconds.json")


def collect(launcher: Launcher, workdir: Path) -> None:
  """Stage 1: plays the episodes."""
  launcher.run("trainers.collect", *FLAGS, workdir=workdir)


def fit(launcher: Launcher, workdir: Path) -> None:
  """Stages 2 and 3: fits the VAE, then the dynamics."""
  launcher.run("trainers.train_vae", *FLAGS, workdir=workdir)
  launcher.run("trainers.train_dynamics", *FLAGS, workdir=workdir)


def train_controller(launcher: Launcher, workdir: Path, method: str) -> None:
  """Stage 4: trains a controller by one of `METHODS`, and validates it."""
  launcher.run("trainers.train_controller", *FLAGS, f"--method={method}", workdir=workdir)


def copy_run(source: Path, target: Path) -> None:
  """Copies what a golden run consists of."""
  shutil.copytree(source, target, ignore=_IGNORED)


def restore_run(method: str, workdir: Path) -> None:
  """Makes the golden run of one of `METHODS` in `workdir`, a new folder."""
  copy_run(RUN, workdir)
  if method == "actor_critic":
    shutil.rmtree(workdir / "controller")
    shutil.copytree(ACTOR_CRITIC, workdir, dirs_exist_ok=True)


def export(launcher: Launcher, workdir: Path) -> Path:
  """Exports a run, which its own `run.json` describes; returns the folder of `MODELS`."""
  launcher.run("trainers.export", f"--config={workdir / 'run.json'}", "--seed=4", workdir=workdir)
  return workdir / "export"


def evaluate(launcher: Launcher, agent: str, output: Path, *flags: str, **options) -> None:
  """Plays one official episode of seed 1; `output` is the JSON file of its scores."""
  launcher.run(
    "trainers.evaluate",
    f"--agent={agent}",
    f"--output={output}",
    "--episodes=1",
    "--seeds=1",
    *flags,
    **options,
  )
