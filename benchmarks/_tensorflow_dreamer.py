"""Ours in `benchmarks.dreamer`: the world model's update, the whole update, and one decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import _dreamer_problem as dreamer_problem
from benchmarks import _problems as problems
from benchmarks._worker import Task
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import Batch, ObservationPart, ObservationSpec, image_observation
from wm_tf.envs import env_spec
from wm_tf.learners.actor_critic import ActorCritic, ActorCriticConfig
from wm_tf.learners.joint import JointUpdate
from wm_tf.models.rssm import RSSM, RSSMConfig

_SEED = 3

# The preset `dreamer`; a test compares both with it.
RSSM_CONFIG = RSSMConfig(
  deter_size=192,
  hidden_size=96,
  stoch_size=16,
  num_classes=8,
  vector_units=(96, 96),
  head_hidden_size=96,
)
ACTOR_CRITIC_CONFIG = ActorCriticConfig(
  num_updates=2000,
  num_further_updates=800,
  batch_size=128,
  horizon=15,
  entropy_scale=1e-3,
  reward_scale=1.0,
  actor_learning_rate=3e-4,
  critic_learning_rate=3e-4,
  target_rate=0.02,
  clip_norm=100.0,
  actor_hidden_sizes=(96, 96),
  critic_hidden_sizes=(96, 96),
  lambda_=0.95,
  actor_gradient="reinforce",
  action_distribution="clipped_normal",
  uniform_share=0.01,
  critic="symexp_twohot",
  slow_critic="regulariser",
  return_normalisation="percentiles",
  warmup_updates=200,
  cooldown=0.5,
  normalised_layers=True,
  replay_scale=0.3,
)


class _RSSM(RSSM):
  """An RSSM that uses given noise, if there is any, instead of drawing it."""

  given_noise = None

  def draw_noise(self, batch_size, num_steps, seed):
    """Returns the given noise, or draws it. See `WorldModel.draw_noise`."""
    if self.given_noise is not None:
      return self.given_noise
    return super().draw_noise(batch_size, num_steps, seed)


class _NoLearner:
  """Takes the place of a learner that is not measured."""

  def update(self, *_) -> None:
    """Does nothing. See `Learner.update`."""


def make_model(size: dreamer_problem.DreamerSize) -> RSSM:
  """Makes the world model of the preset, with new weights."""
  if size.pixels:
    observation = image_observation(size.observation, size.observation)
  else:
    shape = size.observation
    observation = ObservationSpec((ObservationPart("", "vector", shape, shape, "float32"),))
  return _RSSM(observation, problems.ACTION_SIZE, RSSM_CONFIG)


def load(model: RSSM, arrays: dreamer_problem.Arrays) -> None:
  """Sets all weights of a model to the common ones."""
  layers: dict[str, tuple[Any, Any]] = {  # A layer, and the normalisation after it.
    "gates": (model.cell.gates, model.cell.norm),
    "prior": (model.prior_output, None),
    "posterior_hidden": (model.posterior_input, model.posterior_norm),
    "posterior": (model.posterior_output, None),
    "embedding": (model.encoder.output_layer, None),
  }
  blocks = {"cell_input": model.cell.inputs, "prior_hidden": model.prior_layers[0]}
  for name, head in (("reward", model.reward), ("termination", model.termination)):
    blocks[f"{name}_hidden"] = head.network.hidden
    layers[name] = (head.network.output_layer, None)
  (encoder,), (decoder,) = model.encoder.networks, model.decoder.networks
  if model.observation.images:
    (encoder,), (decoder,) = encoder, decoder
    convolutions = (encoder.patches.dense, *encoder.convolutions)
    for name, *pair in zip(("patches", "conv1", "conv2"), convolutions, encoder.norms, strict=True):
      layers[f"encoder.{name}"] = tuple(pair)
    for name, *pair in zip(("conv1", "conv2"), decoder.convolutions, decoder.norms, strict=True):
      layers[f"decoder.{name}"] = tuple(pair)
    layers["decoder.patches"] = (decoder.patches.dense, None)
    blocks |= {"encoder.dense": encoder.output_layer, "decoder.dense": decoder.input_layer}
  else:
    blocks |= {f"encoder.dense{i}": layer for i, layer in enumerate(encoder, 1)}
    blocks |= {f"decoder.dense{i}": layer for i, layer in enumerate(decoder[:-1], 1)}
    layers["decoder.output"] = (decoder[-1], None)
  layers |= {name: (block.dense, block.norm) for name, block in blocks.items()}
  for name, (layer, norm) in layers.items():
    layer.kernel.assign(arrays[f"{name}/kernel"])
    layer.bias.assign(arrays[f"{name}/bias"])
    if norm is not None:
      norm.gain.assign(arrays[f"{name}/gain"])


def _make_update(model: RSSM, learner: Any) -> JointUpdate:
  return JointUpdate(
    model,
    learner,
    learning_rate=dreamer_problem.LEARNING_RATE,
    clip_norm=dreamer_problem.CLIP_NORM,
    seed=_SEED,
  )


def _repeated(update: JointUpdate, batch: Batch, steps: int) -> Callable[[], None]:
  count = 0

  def run():
    nonlocal count
    for metrics in update.run([batch] * steps, count):
      float(metrics.model["loss"])
    count += steps

  return run


def _make_batch(size: dreamer_problem.DreamerSize) -> tuple[Batch, tf.Tensor]:
  arrays = {k: tf.constant(v) for k, v in dreamer_problem.sequences(size).items()}
  noise = arrays.pop("noise")
  return Batch(**arrays), noise


def world_model(steps: int, pixels: bool, **sizes: int) -> Task:
  """`JointUpdate` of the world model alone.

  Args:
    steps: updates in a repetition.
    pixels: whether observations are images.
    **sizes: replace fields of `DreamerSize`.
  """
  size = dreamer_problem.make_size(pixels, **sizes)
  model, arrays = make_model(size), dreamer_problem.weights(size)
  batch, noise = _make_batch(size)
  load(model, arrays)
  # A function keeps the noise that it was traced with, so the check has an update of its own.
  model.given_noise = noise
  update = _make_update(model, _NoLearner())
  metrics = [update(batch, i).model for i in range(dreamer_problem.CHECKED_UPDATES)]
  check = {
    "losses": [float(found["loss"]) for found in metrics],
    "gradient_norm": float(metrics[0]["gradient_norm"]),
    "parameters": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
  }
  model.given_noise = None
  load(model, arrays)
  return Task(_repeated(_make_update(model, _NoLearner()), batch, steps), check)


def whole_update(steps: int, pixels: bool, **sizes: int) -> Task:
  """`JointUpdate.run` with the actor and the critic; see `world_model`."""
  size = dreamer_problem.make_size(pixels, **sizes)
  model = make_model(size)
  load(model, dreamer_problem.weights(size))
  batch, _ = _make_batch(size)
  update = _make_update(model, ActorCritic(model, ACTOR_CRITIC_CONFIG))
  return Task(_repeated(update, batch, steps), {})


def decision(steps: int, pixels: bool) -> Task:
  """Decisions of one agent, one after the other, as in an evaluation; see `world_model`."""
  size = dreamer_problem.make_size(pixels)
  model = make_model(size)
  load(model, dreamer_problem.weights(size))
  policy = ActorCritic(model, ACTOR_CRITIC_CONFIG).policy
  spec = env_spec("car_racing")._replace(observation=model.observation)
  actor, observations = AgentActor(Agent(spec, model, policy)), dreamer_problem.sequences(size)
  observations, seeds = observations["observation"][0], np.zeros(1, np.int64)
  actor.begin(1)

  def run():
    for step in range(steps):
      observation = observations[step % len(observations)][np.newaxis]
      actor.act(observation, np.array([step == 0]), seeds)

  return Task(run, {})


TASKS = {
  "dreamer_world_model": world_model,
  "dreamer_whole_update": whole_update,
  "dreamer_decision": decision,
}
