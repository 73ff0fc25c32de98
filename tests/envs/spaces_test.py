"""Gymnasium's spaces as specifications: every kind, and random ones."""

import gymnasium as gym
import hypothesis
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import strategies as st

from wm_tf.core import ActionSpace
from wm_tf.envs.conversion import to_agent
from wm_tf.envs.options import AdapterOptions
from wm_tf.envs.spaces import (
  action_space,
  agent_action_space,
  agent_space,
  idle_action,
  observation_spec,
)

_DEFAULT = AdapterOptions()


def _pixels(*shape):
  return spaces.Box(0, 255, shape, np.uint8)


def _part(space, **options):
  (part,) = observation_spec(space, AdapterOptions(**options)).parts
  return part


@pytest.mark.parametrize(
  ("shape", "channels", "frame_channels", "axes"),
  [
    ((20, 24), 1, 1, (0, 1)),
    ((20, 24, 1), 1, 1, None),
    ((20, 24, 3), 3, 3, None),
    ((20, 24, 4), 4, 4, None),
    ((20, 24, 2), 2, 1, None),
    ((20, 24, 9), 9, 3, None),
    ((4, 84, 84), 4, 1, (1, 2, 0)),
    ((3, 84, 84), 3, 3, (1, 2, 0)),
    ((1, 84, 80), 1, 1, (1, 2, 0)),
    ((4, 84, 80, 3), 12, 3, (1, 2, 0, 3)),
    ((4, 84, 80, 1), 4, 1, (1, 2, 0, 3)),
    ((4, 3, 84, 80), 12, 3, (2, 3, 0, 1)),
  ],
)
def test_layouts_of_images(shape, channels, frame_channels, axes):
  part = _part(_pixels(*shape))
  assert (part.kind, part.shape) == ("image", (64, 64, channels))
  assert (part.frame_channels, part.axes, part.native_shape) == (frame_channels, axes, shape)
  assert part.low is None and part.path == () and part.dtype == "uint8"


@pytest.mark.parametrize(
  ("space", "size"),
  [
    (spaces.Box(-1, 1, (5,)), 5),
    (spaces.Box(-1, 1, ()), 1),
    (spaces.Box(-np.inf, np.inf, (2, 3), np.float64), 6),
    (spaces.Box(0, 1, (10, 10, 4), bool), 400),  # A small board.
    (_pixels(7, 7, 3), 147),
    (_pixels(128), 128),
    (spaces.Box(0, [[1], [2]] * np.ones((2, 20)), (2, 20)), 40),
  ],
)
def test_other_boxes_are_vectors(space, size):
  part = _part(space)
  assert (part.kind, part.shape, part.dtype) == ("vector", (size,), "float32")
  np.testing.assert_array_equal(part.low, space.low.ravel().astype(np.float32))


def test_the_option_observation_overrules():
  assert _part(_pixels(7, 7, 3), observation="image").kind == "image"
  assert _part(_pixels(20, 24), observation="vector").shape == (480,)
  board = spaces.Dict(board=spaces.Box(0, 1, (8, 8)), turn=spaces.Discrete(2))
  kinds = [p.kind for p in observation_spec(board, AdapterOptions(observation="image")).parts]
  assert kinds == ["image", "vector"]
  for space in (spaces.Box(-np.inf, np.inf, (20, 20)), spaces.Discrete(3)):
    with pytest.raises(ValueError, match="observation=image"):
      _part(space, observation="image")


def test_float_images_have_their_range():
  part = _part(spaces.Box(-0.5, 0.5, (20, 20, 3), np.float32))
  assert part.kind == "image" and (part.low, part.high) == (-0.5, 0.5)
  assert _part(spaces.Box(0, 1, (20, 20), np.uint8)).high == 1


def test_frame_size_and_crop():
  part = _part(_pixels(20, 24), frame_size=128, crop=[2, 3, 10, 12])
  assert part.shape == (128, 128, 1) and part.crop == (2, 3, 10, 12)
  two = spaces.Dict(a=_pixels(20, 24), b=_pixels(20, 24), c=spaces.Discrete(2))
  spec = observation_spec(two, AdapterOptions(crop={"b": (0, 0, 8, 8)}))
  assert [part.crop for part in spec.images] == [(0, 0, 20, 24), (0, 0, 8, 8)]
  for crop, message in (
    ((0, 0, 8, 8), "for which image"),
    ({"c": (0, 0, 8, 8)}, r"\['c'\] are no images"),
    ({"a": (0, 0, 30, 8)}, "does not lie inside"),
  ):
    with pytest.raises(ValueError, match=message):
      observation_spec(two, AdapterOptions(crop=crop))
  with pytest.raises(ValueError, match="no part of the observation is an image"):
    _part(spaces.Discrete(2), crop=(0, 0, 8, 8))


def test_parts_of_nested_spaces_are_named_by_their_keys_and_sorted():
  space = spaces.Dict(
    {
      "z": spaces.Discrete(3),
      "arm": spaces.Dict({"left joint": spaces.Box(-1, 1, (2,)), "2": spaces.MultiBinary(4)}),
      "both": spaces.Tuple([spaces.Discrete(2, start=5), _pixels(9, 9)]),
    }
  )
  spec = observation_spec(space, _DEFAULT)
  assert [(part.name, part.path, part.shape) for part in spec.parts] == [
    ("arm_2", ("arm", "2"), (4,)),
    ("arm_left_joint", ("arm", "left joint"), (2,)),
    ("both_0", ("both", 0), (2,)),
    ("both_1", ("both", 1), (64, 64, 1)),
    ("z", ("z",), (3,)),
  ]
  pair = observation_spec(spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]), _DEFAULT)
  assert [part.name for part in pair.parts] == ["part_0", "part_1"]
  single = observation_spec(spaces.Dict(a=spaces.Discrete(2)), _DEFAULT)
  assert not single.is_array and set(agent_space(single).spaces) == {"a"}


@pytest.mark.parametrize(
  ("space", "message"),
  [
    (spaces.Text(5), "Text.*not supported; supported are Box"),
    (spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))), "part 'a' is not supported"),
    (spaces.Dict(), "has no parts"),
    (spaces.Discrete(10**9), "1000000000 choices, too many"),
    (
      spaces.Dict({"a_b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}),
      "two parts.*'a_b'",
    ),
  ],
)
def test_unsupported_observations_are_named(space, message):
  with pytest.raises(ValueError, match=f"(?i){message}"):
    observation_spec(space, _DEFAULT)


def test_box_actions_reach_exactly_their_bounds():
  space = spaces.Box(np.array([-1, 0, 2.5]), np.array([3, 0.1, np.pi]), dtype=np.float64)
  found = action_space(space, _DEFAULT)
  for sign, bound in ((-1, space.low), (1, space.high)):
    action = found.to_env(np.full(3, sign, np.float32))
    assert space.contains(action) and action.dtype == np.float64
    np.testing.assert_allclose(action, bound, rtol=1e-6)
  middle = found.to_env(np.zeros(3, np.float32))
  np.testing.assert_allclose(middle, (space.low + space.high) / 2, rtol=1e-6)
  np.testing.assert_array_equal(idle_action(found), [0, 0, 2.5])


def test_symmetric_boxes_need_no_offset_and_keep_their_shape():
  space = spaces.Box(-2, 2, (2, 3))
  found = action_space(space, _DEFAULT)
  assert found.offset is None and found.size == 6
  action = found.to_env(np.linspace(-1, 1, 6, dtype=np.float32))
  np.testing.assert_allclose(action, np.linspace(-2, 2, 6).reshape(2, 3), rtol=1e-6)


def test_whole_numbers_are_rounded():
  found = action_space(spaces.Box(0, 255, (2,), np.uint8), _DEFAULT)
  np.testing.assert_array_equal(found.to_env(np.array([1, 0.2], np.float32)), [255, 153])


@pytest.mark.parametrize("bound", [np.inf, np.finfo(np.float32).max])
def test_an_unbounded_box_needs_bounds(bound):
  space = spaces.Box(-bound, bound, (2,), np.float32)
  with pytest.raises(ValueError, match=r"unbounded; bound it by.*action_low and action_high"):
    action_space(space, _DEFAULT)
  found = action_space(space, AdapterOptions(action_low=-3, action_high=[5, 7]))
  np.testing.assert_array_equal(found.to_env(np.ones(2, np.float32)), [5, 7])
  np.testing.assert_array_equal(found.to_env(-np.ones(2, np.float32)), [-3, -3])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"action_low": -2}, "action_low -2 lies outside"),
    ({"action_low": 0.5, "action_high": 0.25}, "above action_high"),
    ({"action_high": [1, 1, 1]}, r"action_high has shape \(3,\)"),
  ],
)
def test_bounds_that_do_not_fit_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    action_space(spaces.Box(-1, 1, (2,)), AdapterOptions(**options))
  with pytest.raises(ValueError, match="bounds a Box"):
    action_space(spaces.Discrete(2), AdapterOptions(**options))


def test_categorical_actions():
  discrete = action_space(spaces.Discrete(3, start=-1), _DEFAULT)
  assert discrete.names == ("action_-1", "action_0", "action_1") and discrete.is_categorical
  assert [discrete.to_env(row) for row in np.eye(3)] == [-1, 0, 1]
  named = action_space(spaces.Discrete(2), _DEFAULT, ("noop", "fire"))
  assert named.names == ("noop", "fire")
  unclear = action_space(spaces.Discrete(2), _DEFAULT, ("noop", "noop"))
  assert unclear.names == ("action_0", "action_1")

  multi = spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[0, 5], [0, 0]])
  found = action_space(multi, _DEFAULT)
  assert found.num_choices == (2, 3, 2, 2) and found.names[2:4] == ("action_1=5", "action_1=6")
  action = found.to_env(np.array([0, 1, 0, 0, 1, 1, 0, 0, 1], np.float32))
  assert multi.contains(action) and action.tolist() == [[1, 7], [0, 1]]

  binary = action_space(spaces.MultiBinary((2, 2)), _DEFAULT)
  action = binary.to_env(np.array([1, 0, 0, 1, 0, 1, 1, 0], np.float32))
  assert action.tolist() == [[0, 1], [1, 0]] and action.dtype == np.int8


@pytest.mark.parametrize(
  "space", [spaces.Dict(a=spaces.Discrete(2)), spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3)]
)
def test_unsupported_actions_are_named(space):
  with pytest.raises(ValueError, match=r"is not supported; supported are Box with finite bounds"):
    action_space(space, _DEFAULT)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"frame_size": 31}, "frame_size must be a whole number of at least 32, not 31"),
    ({"frame_size": 129}, "at most 128"),
    ({"frame_size": 64.0}, "whole number"),
    ({"action_repeat": 0}, "action_repeat must be a whole number of at least 1"),
    ({"action_repeat": True}, "action_repeat"),
    ({"frames_to_skip": -1}, "frames_to_skip"),
    ({"max_steps": 0}, "max_steps"),
    ({"observation": "pixels"}, "auto, image, vector, render"),
    ({"crop": (1, 2, 3)}, "crop must be"),
    ({"crop": {"a": 3}}, "crop must be"),
    ({"action_low": np.nan}, "action_low must be a finite number"),
    ({"action_high": "high"}, "action_high must be a finite number"),
  ],
)
def test_senseless_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    AdapterOptions(**options)


_DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.uint8, np.int64])
_SHAPES = st.lists(st.integers(1, 12), max_size=4).map(tuple)


@st.composite
def _boxes(draw, bounded=False):
  dtype = draw(_DTYPES)
  shape = draw(_SHAPES)
  low = draw(st.integers(0 if dtype == np.uint8 else -100, 50))
  high = draw(st.integers(low + 1, 120))
  if not bounded and np.issubdtype(dtype, np.floating) and draw(st.booleans()):
    low, high = -np.inf, np.inf
  return spaces.Box(low, high, shape, dtype)


_DISCRETE = st.builds(lambda n, start: spaces.Discrete(n, start=start), *[st.integers(1, 6)] * 2)
_MULTI_DISCRETE = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(spaces.MultiDiscrete)
_MULTI_BINARY = st.one_of(st.integers(1, 5), st.just([2, 3])).map(spaces.MultiBinary)
_LEAVES = st.one_of(_boxes(), _DISCRETE, _MULTI_DISCRETE, _MULTI_BINARY)
_OBSERVED = st.recursive(
  _LEAVES,
  lambda inner: st.one_of(
    st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3).map(spaces.Dict),
    st.lists(inner, min_size=1, max_size=2).map(spaces.Tuple),
  ),
  max_leaves=4,
)


@hypothesis.settings(deadline=None, max_examples=80, database=None)
@hypothesis.given(_OBSERVED, st.integers(0, 2**31))
def test_random_observation_spaces(space: gym.Space, seed: int):
  spec = observation_spec(space, AdapterOptions(frame_size=32))
  seen = agent_space(spec)
  space.seed(seed)
  for _ in range(3):
    assert seen.contains(to_agent(spec, space.sample()))


@hypothesis.settings(deadline=None, max_examples=80, database=None)
@hypothesis.given(
  st.one_of(_boxes(bounded=True), _DISCRETE, _MULTI_DISCRETE, _MULTI_BINARY), st.integers(0, 2**31)
)
def test_random_action_spaces(space: gym.Space, seed: int):
  found = action_space(space, _DEFAULT)
  assert isinstance(found, ActionSpace)
  taken = agent_action_space(found)
  taken.seed(seed)
  assert space.contains(idle_action(found))
  for _ in range(3):
    action = found.canonical(taken.sample())
    assert taken.contains(action) and space.contains(found.to_env(action))
    if found.is_categorical:
      assert action.sum() == len(found.num_choices)
