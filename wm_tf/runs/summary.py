"""Gathers what the report of a run shows: film strips, curves, the animation, the data recipe."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf.runs.playing import episode_seeds
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json
from wm_tf import files, report, rng
from wm_tf.evaluation import disagreement
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import Batch, Episode
from wm_tf.data import datasets, rollouts
from wm_tf.imagination import imagine, observe_sequence
from wm_tf.models.world_model import to_uint8
from wm_tf.training.loggers import read_jsonl

_BURN_IN, _DREAM_STEPS = 12, 40
_TRACKS = 3  # Validation tracks that nothing else is judged on.


def data_figures(run: Run) -> dict[str, Any]:
  """Episodes and frames by policy, over all iterations."""
  episodes = [
    info
    for folder in run.data_folders(run.config.num_iterations)
    for info in rollouts.load_manifest(folder).episodes
  ]
  return {
    "episodes": len(episodes),
    "frames": sum(info.frames for info in episodes),
    "decisions": sum(info.steps - 1 for info in episodes),
    "by_policy": dict(Counter(info.policy.split(" ")[0] for info in episodes)),
  }


def histories(run: Run, iteration: int) -> dict[str, list[dict]]:
  """The learning curves of every stage, iterations one after another."""
  curves = {}
  stages = dict(run.family.fits) | {"controller": "Controller, in the dream"}
  for stage, title in stages.items():
    last = iteration if stage == "controller" else run.family.fit_iteration(stage, iteration)
    paths = [run.path(stage, i) / "metrics.jsonl" for i in range(last + 1)]
    curves[title] = [row for path in paths if path.exists() for row in read_jsonl(path)]
  return curves


def _as_batch(episode: Episode) -> Batch:
  return Batch(*(tf.constant(field)[tf.newaxis] for field in datasets.align(episode)))


def dream_strip(agent: Agent, episode: Episode, first: int = 40) -> tuple[bytes, np.ndarray]:
  """A real episode, its reconstruction, and a dream along the same actions.

  Args:
    agent: whose world model dreams.
    episode: a real one, of more than `first` + 40 steps (shorter ones start earlier).
    first: step at which the dream begins; the model has seen all frames before.

  Returns:
    The strip as PNG, and reconstructions `uint8[T, 64, 64, 3]` of the whole episode.
  """
  model = agent.world_model
  batch = _as_batch(episode)
  states = observe_sequence(model, batch, rng.make_seed(0))
  reconstructed = to_uint8(model.decode(tf.nest.map_structure(lambda x: x[0], states))).numpy()
  length = len(episode.reward)
  first = max(_BURN_IN, min(first, length - 1 - _DREAM_STEPS))
  steps = min(_DREAM_STEPS, length - 1 - first)
  actions = tf.constant(episode.action[np.newaxis])
  _, dreamed = imagine(
    model,
    lambda t, state, memory: (actions[:, first + t], memory),
    tf.nest.map_structure(lambda x: x[:, first], states),
    steps,
    rng.make_seed(0),
    temperature=0.1,
  )
  dreamed = to_uint8(model.decode(tf.nest.map_structure(lambda x: x[0], dreamed))).numpy()
  begin = first - 8
  window = slice(begin, first + steps + 1)
  dream_row = np.concatenate([reconstructed[begin : first + 1], dreamed])
  rows = {
    "real": episode.observation[window],
    "reconstructed": reconstructed[window],
    "dreamed": dream_row,
  }
  shown = [0, 8, *(8 + k for k in (1, 3, 5, 10, 15, 20, 30, 40) if k <= steps)]
  return (
    report.film_strip(rows, steps=shown, first_step=begin, dream_from=9),
    reconstructed,
  )


def disagreement_samples(run: Run, agent: Agent, iteration: int) -> dict[str, np.ndarray]:
  """An ensemble's disagreement about the steps of its data, of an agent's drives, of its dreams.

  Args:
    run: the run.
    agent: who drives, on two tracks that are validated on.
    iteration: of the world model.
  """
  model, folders = agent.world_model, run.sequence_folders(iteration)
  options = {"split": "train", "held_out_fraction": run.config.collect.held_out}
  training = datasets.episodes_dataset(folders, batch_size=16, seed=run.seed, **options)
  seeds = episode_seeds("validation", run.seed, 2, _TRACKS)
  drives = [run.play(AgentActor(agent), seed) for seed in seeds]
  visits = [_as_batch(drive) for drive in drives]
  return {
    "training data": disagreement.along(model, training.take(4)),
    "real visits": disagreement.along(model, visits),
    "dreams": disagreement.in_dreams(
      model, agent.policy, run.first_states(model, 32, iteration), run.spec.max_decisions, run.seed
    ),
  }


def write(
  run: Run,
  results: dict[str, Any],
  controller: Agent,
  played: Episode,
  command: str | None,
) -> None:
  """Writes `report.html` and its pictures.

  Args:
    run: the finished run.
    results: what `results.json` holds.
    controller: the agent that was chosen.
    played: an episode that the served planner drove.
    command: what made the run.
  """
  strip, reconstructed = dream_strip(controller, played)
  figures = {
    "film_strip": strip,
    "animation": report.animation(
      played.observation,
      beside=reconstructed,
      captions=[f"return so far {total:.0f}" for total in np.cumsum(played.reward)],
    ),
  }
  captions = {
    "film_strip": (
      "A drive of the served planner on a track that training never saw. From the marked step on, "
      "the lowest row is dreamed from the actions alone."
    ),
    "animation": "The served planner driving: the real frames, and what the VAE keeps of them.",
  }
  if run.config.dynamics.ensemble_size > 1:
    samples = disagreement_samples(run, controller, results["chosen_iteration"])
    figures["disagreement"] = report.disagreement_figure(samples)
    captions["disagreement"] = (
      "How far the members of the ensemble disagree about a step: on the data that they learned "
      "from, where the controller really drives, and in its dreams. Dreams that reach further to "
      "the right than the data go where nothing bears them out."
    )
  pictures = report.save_figures(run.workdir / "figures", figures)
  report.write_report(
    run.workdir / "report.html",
    results,
    read_json(run.workdir / "run.json"),
    figures,
    histories=histories(run, results["chosen_iteration"]),
    captions=captions,
    command=command,
  )
  names = [os.path.relpath(path, run.workdir) for path in pictures.values()]
  files.write_sums(run.workdir, ["report.html", *names])


def is_written(run: Run) -> bool:
  """Whether the report and its pictures are there as `write` left them."""
  try:
    return not files.check_sums(run.workdir)
  except FileNotFoundError:
    return False
