"""Gathers the content of a run's report: film strips, curves, an animation, and data statistics."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from wm_tf import files, report, rng
from wm_tf.agent import Agent
from wm_tf.core import Batch, Episode, Nest
from wm_tf.data import datasets, rollouts
from wm_tf.data.collect import Actor
from wm_tf.evaluation import disagreement
from wm_tf.imagination import imagine, make_observer
from wm_tf.models.world_model import WorldModel
from wm_tf.runs.playing import episode_seeds, film
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import read_json
from wm_tf.training.loggers import read_jsonl

_DREAM_STEPS = 40
_TRACKS = 5  # Stream of validation seeds that no other part of a run plays.


def data_figures(run: Run) -> dict[str, Any]:
  """Counts the rollouts of all iterations.

  Args:
    run: the run.

  Returns:
    `episodes`, `frames`, `decisions`, and `by_policy`, the number of episodes of each policy.
  """
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
  """Returns the learning curves of every stage, with the iterations one after another.

  Args:
    run: the run.
    iteration: the last iteration to include.

  Returns:
    Title of the stage to the lines of its `metrics.jsonl` files.
  """
  curves = {}
  stages = dict(run.family.fits) | {"controller": "Controller, in the dream"}
  for stage, title in stages.items():
    last = iteration if stage == "controller" else run.family.fit_iteration(stage, iteration)
    paths = [run.path(stage, i) / "metrics.jsonl" for i in range(last + 1)]
    curves[title] = [row for path in paths if path.exists() for row in read_jsonl(path)]
  return curves


def _as_batch(episode: Episode) -> Batch:
  def with_batch(x):
    return tf.constant(x)[tf.newaxis]

  return tf.nest.map_structure(with_batch, datasets.align(episode))


def dream_strip(agent: Agent, episode: Episode, first: int = 40) -> tuple[bytes, Nest]:
  """Draws a real episode, its reconstruction, and a dream along the same actions.

  Args:
    agent: the agent whose world model dreams.
    episode: a real episode.
    first: step from which the dream starts; earlier if the episode is short. The model observes the
      episode up to it.

  Returns:
    The strip as PNG, and the reconstruction of the whole episode: observations as of
    `WorldModel.decode`, with leading dimension T.
  """
  model = agent.world_model
  states = make_observer(model, rng.make_seed(0))(_as_batch(episode))
  reconstructed = _decoded(model, states)
  last = len(episode.reward) - 1
  first = max(0, min(first, last - min(_DREAM_STEPS, last // 2)))
  steps = min(_DREAM_STEPS, last - first)
  actions = tf.constant(episode.action[np.newaxis])

  def recorded_action(t, state, memory):
    return actions[:, first + t], memory

  _, dreamed = imagine(
    model,
    recorded_action,
    tf.nest.map_structure(lambda x: x[:, first], states),
    steps,
    rng.make_seed(0),
    temperature=0.1,
  )
  begin = max(0, first - 8)
  before = first + 1 - begin

  def seen_then_dreamed(seen, then):
    return np.concatenate([seen[begin : first + 1], then])

  def window(x):
    return x[begin : first + steps + 1]

  rows = {
    "real": tf.nest.map_structure(window, episode.observation),
    "reconstructed": tf.nest.map_structure(window, reconstructed),
    "dreamed": tf.nest.map_structure(seen_then_dreamed, reconstructed, _decoded(model, dreamed)),
  }
  shown = [0, before - 1, *(before - 1 + k for k in (1, 3, 5, 10, 15, 20, 30, 40) if k <= steps)]
  strip = report.observation_strip(
    rows,
    agent.spec.observation,
    steps=list(dict.fromkeys(shown)),
    first_step=begin,
    dream_from=before,
  )
  return strip, reconstructed


def _decoded(model: WorldModel, states: Nest) -> Nest:
  """Returns the mean observations `[T, ...]` of states `[1, T, ...]`."""
  decoded = model.decode(tf.nest.map_structure(lambda x: x[0], states))
  return tf.nest.map_structure(lambda x: x.numpy(), decoded)


def movie(run: Run, actor: Actor, seed: int, episode: Episode, reconstructed: Nest) -> bytes | None:
  """Makes an animation of an episode.

  Args:
    run: the run.
    actor: the actor that played the episode.
    seed: seed of the episode.
    episode: the episode.
    reconstructed: its reconstruction, as `dream_strip` returns.

  Returns:
    A GIF: the first image part of the observations next to its reconstruction, or the environment's
    rendering if observations have no image; None if it does not render either.
  """
  captions = [f"return so far {total:.0f}" for total in np.cumsum(episode.reward)]
  spec = run.spec.observation
  for part, real, kept in zip(
    spec.parts, spec.unpack(episode.observation), spec.unpack(reconstructed), strict=True
  ):
    if part.kind == "image":
      return report.animation(
        report.display_frames(real, part),
        beside=report.display_frames(kept, part),
        captions=captions,
      )
  frames = film(run.config, actor, seed)
  return None if frames is None else report.animation(frames)


def disagreement_samples(run: Run, agent: Agent, iteration: int) -> dict[str, np.ndarray]:
  """Measures an ensemble's disagreement on its data, on real episodes, and in dreams.

  Args:
    run: the run.
    agent: the agent; it plays two validation episodes.
    iteration: iteration of the world model.

  Returns:
    Name of the sample to the disagreements of its steps, `float32[S]`.
  """
  model, folders = agent.world_model, run.sequence_folders(iteration)
  options = {"split": "train", "held_out_fraction": run.config.collect.held_out}
  training = datasets.episodes_dataset(folders, batch_size=16, seed=run.seed, **options)
  seeds = episode_seeds("validation", run.seed, 2, _TRACKS)
  visits = [_as_batch(run.play(agent, seed)) for seed in seeds]
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
  strip: bytes,
  frames: bytes | None,
  command: str | None,
) -> None:
  """Writes `report.html`, its figures, and their checksums.

  Args:
    run: the finished run.
    results: content of `results.json`.
    controller: the agent of the chosen controller.
    strip: PNG of an episode of the served planner, from `dream_strip`.
    frames: GIF of that episode; None to leave it out.
    command: the command line that made the run; None to leave it out.
  """
  figures, captions = {"film_strip": strip}, {}
  captions["film_strip"] = (
    "An episode of the served planner on a seed that training never saw. From the marked step on, "
    "what is dreamed follows from the actions alone."
  )
  if frames is not None:
    figures["animation"] = frames
    captions["animation"] = "The served planner at work."
  if run.family.has_disagreement():
    samples = disagreement_samples(run, controller, results["chosen_iteration"])
    figures["disagreement"] = report.disagreement_figure(samples)
    captions["disagreement"] = (
      "How far the members of the ensemble disagree about a step: on the data that they learned "
      "from, where the controller really goes, and in its dreams. Dreams further to the right than "
      "the data go where no data support them."
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
  """Returns whether the report and its figures exist and are undamaged.

  Args:
    run: the run.
  """
  try:
    return not files.check_sums(run.workdir)
  except FileNotFoundError:
    return False
