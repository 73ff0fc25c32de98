"""The compiled functions of dreams in a learned world model."""

from __future__ import annotations

import math

import tensorflow as tf

import wm_tf
from wm_tf import rng
from wm_tf.core import ActionSpace, Nest, ObservationPart, ObservationSpec
from wm_tf.dream_actions import DreamActions
from wm_tf.dream_pictures import bounds
from wm_tf.models.world_model import WorldModel, to_uint8
from wm_tf.nests import gather_rows


class Dream:
  """The compiled functions of a dream. It has no state, so several environments can share it.

  Attributes:
    world_model: the world model.
    num_starts: S, the number of states that episodes start from.
    observation: specification of the result of `decode`.
    actions: the action space and its conversion.
    name: name of the model, for messages.
    begin: maps `rows int32[B]` to `(state, features float32[B, F])` of the given starts.
    step: maps `(state, action float32[B, A], seed int32[B, 2], over bool[B], rows int32[B])` to
      `(state, features, reward, terminated, (imagined_reward, discount, disagreement))`. Where
      `over` is true, the state and the features are those of start `rows` instead.
    decode: maps a state to its mean observation, as an agent sees it: images `uint8[B, H, W, C]`,
      vectors `float32[B, D]` within their range.
  """

  def __init__(
    self,
    world_model: WorldModel,
    starts: Nest,
    *,
    observation: ObservationSpec | None = None,
    action_space: ActionSpace | None = None,
    temperature: float = 1.0,
    disagreement_penalty: float = 0.0,
    jit_compile: bool = True,
    name: str = "",
  ):
    """Builds the functions.

    Args:
      world_model: a world model of any family, or an exported one.
      starts: real states, each of which has observed all of its episode before it: a nest of
        `[S, ...]`.
      observation: specification of the environment's observations. By default shapes are those that
        the model decodes, and vectors have no range.
      action_space: the environment's action space. By default only the model's `num_choices` are
        known.
      temperature: temperature of the dream, at least 0.
      disagreement_penalty: reward that is subtracted per unit of disagreement above the usual.
      jit_compile: whether steps are compiled by XLA.
      name: name of the model, for messages; by default that of its class.

    Raises:
      ValueError: if an argument is invalid.
    """
    wm_tf.check_not_forked()
    if not (math.isfinite(temperature) and temperature >= 0.0):
      raise ValueError(f"temperature must be a finite number of at least 0, not {temperature}.")
    if not math.isfinite(disagreement_penalty):
      raise ValueError(f"disagreement_penalty must be finite, not {disagreement_penalty}.")
    self.world_model, self.name = world_model, name or type(world_model).__name__
    self.num_starts = len(tf.nest.flatten(starts)[0])
    if observation is None:
      observation = _decoded_spec(world_model.decode(gather_rows(starts, tf.constant([0]))))
    self.observation = observation
    num_choices = getattr(world_model, "num_choices", ())
    self.actions = DreamActions(world_model.action_size, num_choices, action_space)

    def begin(rows):
      state = gather_rows(starts, rows)
      return state, world_model.features(state)

    def step(state, action, seed, over, rows):
      imagine_seed, end_seed = rng.split(seed, 2)
      prediction = world_model.imagine(state, action, imagine_seed, temperature)

      def begun_where_over(start, new):
        return tf.where(tf.reshape(over, [-1] + [1] * (new.shape.rank - 1)), start, new)

      begun = gather_rows(starts, rows)
      state = tf.nest.map_structure(begun_where_over, begun, prediction.state)
      terminated = rng.uniform(tf.shape(over), end_seed) >= prediction.discount
      penalty = disagreement_penalty * world_model.unfamiliarity(prediction.disagreement)
      reward = prediction.reward - penalty
      return state, world_model.features(state), reward, terminated, prediction[1:]

    def decode(state):
      values = observation.unpack(world_model.decode(state))
      pairs = zip(observation.parts, values, strict=True)
      return observation.pack([_as_observed(part, value) for part, value in pairs])

    self.begin = tf.function(begin, autograph=False)
    self.step = tf.function(step, jit_compile=jit_compile, autograph=False)
    # Not compiled by XLA, whose convolutions are slow.
    self.decode = tf.function(decode, autograph=False)


def _decoded_spec(decoded: Nest) -> ObservationSpec:
  """Returns the specification of observations, derived from one decoded row."""
  values = decoded if isinstance(decoded, dict) else {"": decoded}
  parts = []
  for name, value in sorted(values.items()):
    shape = tuple(value.shape[1:])
    kind, dtype = ("image", "uint8") if len(shape) == 3 else ("vector", "float32")
    channels = shape[-1] if shape[-1] <= 4 else 3
    parts.append(ObservationPart(name, kind, shape, shape, dtype, frame_channels=channels))
  return ObservationSpec(tuple(parts))


def _as_observed(part: ObservationPart, mean: tf.Tensor) -> tf.Tensor:
  """Converts a decoded mean to the form that an agent observes."""
  if part.kind == "image":
    return to_uint8(mean)
  return tf.clip_by_value(tf.cast(mean, tf.float32), *bounds(part))
