"""Exported graphs convert observations and actions exactly as the environments' adapters do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from serving import observations as client_side
from serving.spec import ObservationPart
from tests.export.exported import SPEC
from wm_tf import export
from wm_tf.core import image_observation
from wm_tf.envs.conversion import to_agent
from wm_tf.envs.frames import resize
from wm_tf.envs.options import AdapterOptions
from wm_tf.envs.spaces import action_space, observation_spec
from wm_tf.export.conversions import accepted_shapes, require_finite
from wm_tf.export.observations import inputs_of
from wm_tf.export.spec_signature import _plain

_PIXELS = {"low": 0, "high": 255, "dtype": np.uint8}
OBSERVATIONS = {
  "image": spaces.Box(shape=(96, 96, 3), **_PIXELS),
  "gray": spaces.Box(shape=(20, 24), **_PIXELS),
  "one_channel": spaces.Box(shape=(84, 84, 1), **_PIXELS),
  "rgba": spaces.Box(shape=(30, 40, 4), **_PIXELS),
  "stacked": spaces.Box(shape=(5, 20, 24), **_PIXELS),
  "stacked_rgb": spaces.Box(shape=(2, 20, 24, 3), **_PIXELS),
  "channels_first": spaces.Box(shape=(2, 3, 20, 24), **_PIXELS),
  "of_the_agents_size": spaces.Box(shape=(32, 32, 3), **_PIXELS),
  "float_image": spaces.Box(-1.0, 1.0, (20, 24, 3), np.float32),
  "double_image": spaces.Box(0.0, 1.0, (32, 32), np.float64),
  "integer_image": spaces.Box(-100, 300, (3, 20, 24), np.int16),
  "vector": spaces.Box(-np.inf, np.inf, (3,), np.float32),
  "doubles": spaces.Box(-5.0, 9.0, (2, 3), np.float64),
  "integers": spaces.Box(-5, 9, (4,), np.int32),
  "discrete": spaces.Discrete(5, start=-2),
  "multi_discrete": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-3, 7]]),
  "multi_binary": spaces.MultiBinary((2, 3)),
  "dict": spaces.Dict(
    {
      "camera": spaces.Box(shape=(20, 24, 3), **_PIXELS),
      "class": spaces.Discrete(3),
      "seed": spaces.Box(-1.0, 1.0, (2,), np.float32),
      "latent z": spaces.Box(-1.0, 1.0, (), np.float32),
      "nested": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0.0, 1.0, (1,), np.float64)]),
    }
  ),
}


def _environment(name: str):
  """The EnvSpec of an environment that shows a space of `OBSERVATIONS`."""
  return SPEC._replace(
    observation=observation_spec(OBSERVATIONS[name], AdapterOptions(frame_size=32)), env_id=name
  )


def _samples(space: gym.Space, num: int = 9) -> list:
  space.seed(0)
  return [space.sample() for _ in range(num)]


def _native(part, samples) -> np.ndarray:
  """A batch of a part as the environment shows it."""
  values = samples
  for key in part.path:
    values = [value[key] for value in values]
  return np.stack([np.asarray(value, part.native_dtype) for value in values])


def _graph(spec):
  """`observation_of` as a server runs it: with inputs of the signature's shapes."""

  def convert(**inputs):
    parts = spec.observation.unpack(export.observation_of(inputs, spec))
    return {str(i): x for i, x in enumerate(parts)}

  return tf.function(convert).get_concrete_function(**export.input_specs(spec.observation))


def _batches(spec, samples):
  """The inputs for some samples, and what the agent sees of them, both part by part."""
  parts = spec.observation.parts
  inputs = dict(
    zip(export.input_names(spec.observation), [_native(p, samples) for p in parts], strict=True)
  )
  seen = [spec.observation.unpack(to_agent(spec.observation, sample)) for sample in samples]
  return inputs, [np.stack(values) for values in zip(*seen, strict=True)]


def _assert_parts(found, expected) -> None:
  for i, value in enumerate(expected):
    part = found[str(i)].numpy()
    assert part.dtype == value.dtype
    np.testing.assert_array_equal(part, value)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_graph_sees_what_the_adapter_sees_bit_for_bit(name):
  spec, samples = _environment(name), _samples(OBSERVATIONS[name])
  inputs, expected = _batches(spec, samples)
  _assert_parts(_graph(spec)(**_tensors(inputs)), expected)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_what_the_agent_sees_becomes_inputs_that_mean_the_same(name):
  """In process and in the client, which do not share the code."""
  spec, samples = _environment(name), _samples(OBSERVATIONS[name])
  _, expected = _batches(spec, samples)
  names = export.input_names(spec.observation)
  value = spec.observation.pack(expected)
  inputs = inputs_of(spec.observation, names, value, len(samples))
  _assert_parts(_graph(spec)(**_tensors(inputs)), expected)
  parts = [
    ObservationPart.from_json(_plain({"input": name, **part._asdict()}))
    for name, part in zip(names, spec.observation.parts, strict=True)
  ]
  served = client_side.from_agent(parts, value, len(samples)).inputs
  assert set(served) == set(inputs)
  for key, array in inputs.items():
    assert served[key].dtype == array.dtype
    np.testing.assert_array_equal(served[key], array)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_in_process_and_client_take_what_the_environment_shows(name):
  spec, samples = _environment(name), _samples(OBSERVATIONS[name])
  inputs, _ = _batches(spec, samples)
  names = export.input_names(spec.observation)
  shown = spec.observation.pack(list(inputs.values()))
  for key, array in inputs_of(spec.observation, names, shown, len(samples)).items():
    np.testing.assert_array_equal(array, inputs[key])
  parts = [
    ObservationPart.from_json(_plain({"input": name, **part._asdict()}))
    for name, part in zip(names, spec.observation.parts, strict=True)
  ]
  found = client_side.check(parts, shown, len(samples))
  assert not found.single
  for key, array in found.inputs.items():
    np.testing.assert_array_equal(array, inputs[key])
  one = client_side.check(parts, spec.observation.pack([x[0] for x in inputs.values()]), 1)
  assert one.single
  for key, array in one.inputs.items():
    np.testing.assert_array_equal(array, inputs[key][:1])


def _tensors(inputs):
  return {name: tf.constant(x) for name, x in inputs.items()}


@pytest.mark.parametrize(
  "native, crop", [((96, 96, 3), (0, 0, 84, 96)), ((60, 80, 3), (3, 5, 50, 70))]
)
def test_a_cropped_image_is_taken_at_both_sizes(native, crop):
  spec = SPEC._replace(observation=image_observation((64, 64, 3), native, crop))
  random = np.random.default_rng(0)
  batch = random.integers(0, 256, (40, *native), np.uint8)
  batch[:20] //= 85  # Few values make many ties to round.
  expected = np.stack([resize(f, crop, (64, 64)) for f in batch])
  convert = _graph(spec)
  _assert_parts(convert(frame=tf.constant(batch)), [expected])
  _assert_parts(convert(frame=tf.constant(expected)), [expected])


def test_a_crop_that_leaves_both_sizes_alike_is_refused():
  observation = image_observation((64, 64, 3), (64, 64, 3), (0, 0, 54, 64))
  with pytest.raises(ValueError, match="Choose another frame_size"):
    export.input_specs(observation)


def test_names_of_inputs():
  names = dict(
    zip(
      [part.name for part in _environment("dict").observation.parts],
      export.input_names(_environment("dict").observation),
      strict=True,
    )
  )
  assert names == {
    "camera": "camera",
    "class": "observation_class",
    "latent_z": "observation_latent_z",
    "nested_0": "nested_0",
    "nested_1": "nested_1",
    "seed": "observation_seed",
  }
  assert export.input_names(_environment("gray").observation) == ("frame",)
  assert export.input_names(_environment("discrete").observation) == ("observation",)
  clash = spaces.Dict({"a": OBSERVATIONS["gray"], "a_mean": spaces.Discrete(2)})
  clash = observation_spec(clash, AdapterOptions(frame_size=32))
  assert export.input_names(clash) == ("a", "a_mean_2")


def test_inputs_have_the_environments_shapes():
  def specs(name):
    return {
      key: (s.dtype.name, s.shape.as_list())
      for key, s in export.input_specs(_environment(name).observation).items()
    }

  assert specs("image") == {"frame": ("uint8", [None, None, None, 3])}
  assert specs("gray") == {"frame": ("uint8", [None, None, None])}
  assert specs("stacked") == {"frame": ("uint8", [None, 5, None, None])}
  assert specs("doubles") == {"observation": ("float64", [None, 2, 3])}
  assert specs("discrete") == {"observation": ("int64", [None])}
  (part,) = _environment("stacked").observation.parts
  assert accepted_shapes(part) == ((5, 20, 24), (5, 32, 32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(bad):
  checked = tf.function(require_finite)
  with pytest.raises(tf.errors.InvalidArgumentError, match="speed must be finite"):
    checked({"speed": tf.constant([1.0, bad]), "count": tf.constant([1])})
  for name in ("vector", "doubles", "float_image"):
    spec = _environment(name)
    inputs, _ = _batches(spec, _samples(OBSERVATIONS[name]))
    (key, array), *_ = inputs.items()
    array[3, ..., -1] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{key} must be finite"):
      _graph(spec)(**{key: tf.constant(array)})


@pytest.mark.parametrize("value", [-3, 3])
def test_integers_out_of_range_are_named(value):
  with pytest.raises(tf.errors.InvalidArgumentError, match="observation must lie between"):
    _graph(_environment("discrete"))(observation=tf.constant([0, value], tf.int64))


ACTIONS = {
  "box": spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)),
  "box_2d": spaces.Box(-2.0, 7.0, (2, 3), np.float64),
  "integer_box": spaces.Box(-3, 4, (2,), np.int32),
  "discrete": spaces.Discrete(4, start=-1),
  "multi_discrete": spaces.MultiDiscrete([[3, 2], [4, 5]], start=[[0, 1], [-2, 3]]),
  "multi_binary": spaces.MultiBinary((2, 2)),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_the_graph_maps_actions_as_the_adapter_does(name):
  space = action_space(ACTIONS[name], AdapterOptions())
  spec = SPEC._replace(action_space=space)
  action = np.random.default_rng(0).uniform(-1.2, 1.2, (50, space.size)).astype(np.float32)

  @tf.function(input_signature=[tf.TensorSpec([None, space.size], tf.float32)])
  def convert(x):
    x = export.canonical_action(x, space)
    return x, export.to_env_action(x, spec)

  canonical, found = (x.numpy() for x in convert(tf.constant(action)))
  np.testing.assert_array_equal(canonical, space.canonical(action))
  expected = np.stack([np.asarray(space.to_env(a)) for a in space.canonical(action)])
  assert found.shape == (50, *ACTIONS[name].shape)
  assert found.dtype == ("float32" if name.endswith(("box", "2d")) else expected.dtype)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
  if space.is_categorical or name == "integer_box":
    np.testing.assert_array_equal(found, expected)
  for one in found:
    assert ACTIONS[name].contains(np.asarray(one, ACTIONS[name].dtype))


def test_car_racing_actions_are_bit_for_bit():
  action = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
  expected = np.stack([SPEC.action_space.to_env(a) for a in action])
  np.testing.assert_array_equal(export.to_env_action(tf.constant(action), SPEC), expected)
