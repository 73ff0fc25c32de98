"""Episodes of any shapes and values: on disk, in rows and in batches they are what was written."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.data import helpers
from wm_tf.core import Batch, Episode
from wm_tf.data import datasets, observations, repair, rollouts, rows
from wm_tf.data.manifest import EpisodeInfo, Manifest
from wm_tf.data.observations import ArraySpec

_FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
_IMAGES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
_ARRAYS = st.one_of(
  st.builds(ArraySpec, _IMAGES, st.just("uint8")),
  st.builds(ArraySpec, st.tuples(st.integers(1, 5)), st.just("float32")),
)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@st.composite
def _header(draw) -> Manifest:
  environment = {"name": draw(_NAMES), "options": {}}
  if draw(st.booleans()):
    shape, dtype = draw(_ARRAYS)
    return Manifest(environment, draw(st.integers(1, 4)), shape, dtype)
  parts = draw(st.dictionaries(_NAMES, _ARRAYS, min_size=1, max_size=3))
  return Manifest(environment, draw(st.integers(1, 4)), (), "", observation_parts=parts)


def _array(spec: ArraySpec, steps: int):
  elements = _FLOATS if spec.dtype == "float32" else st.integers(0, 255)
  return arrays_of.arrays(spec.dtype, (steps, *spec.shape), elements=elements, fill=elements)


@st.composite
def _episode(draw, header: Manifest, seed: int) -> tuple[Episode, EpisodeInfo]:
  steps = draw(st.integers(1, 6))
  observation = {name: draw(_array(spec, steps)) for name, spec in header.arrays.items()}
  last = np.arange(steps) == steps - 1
  episode = Episode(
    observation=observations.pack(observation),
    action=draw(_array(ArraySpec((header.action_size,), "float32"), steps)) * ~last[:, None],
    reward=draw(_array(ArraySpec((), "float32"), steps)) * ~last,
    is_first=np.arange(steps) == 0,
    is_last=last,
    is_terminal=last & draw(st.booleans()),
  )
  facts = [draw(st.integers(0, 2**63 - 1)) for _ in range(2)]
  return episode, EpisodeInfo(seed, draw(_NAMES), facts[0], draw(_FLOATS), facts[1], steps)


def _rows(data: tf.data.Dataset, length: int) -> list[Batch]:
  """Rows without their padding."""
  found = helpers.rows_of(data)
  assert all(len(row.mask) == length for row in found)
  return [tf.nest.map_structure(lambda x, row=row: x[row.mask], row) for row in found]


@given(data=st.data())
def test_episodes_are_read_as_they_were_written(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp("episodes", numbered=True)
  header = data.draw(_header())
  written = [data.draw(_episode(header, seed)) for seed in range(data.draw(st.integers(1, 3)))]
  rollouts.write_dataset(folder, written, header, episodes_per_shard=2)
  assert repair.verify(folder).episodes == tuple(info for _, info in written)
  for (found, found_info), (episode, info) in zip(
    rollouts.read_episodes(folder), written, strict=True
  ):
    assert found_info == info
    tf.nest.assert_same_structure(found, episode)
    assert helpers.equal(found, episode)
  if data.draw(st.booleans(), "rows"):
    datasets.cache_frames(folder, folder / "rows")
    folder = folder / "rows"
    repair.verify(folder)
  aligned = [rows.align(episode) for episode, _ in written]
  length = max(info.steps for _, info in written)
  found = _rows(datasets.episodes_dataset(folder, batch_size=2), length)
  assert helpers.equal(found, aligned)
  length = data.draw(st.integers(2, 7))
  found = _rows(helpers.sequences(folder, length, 2, seed=3), length)
  assert sum(len(row.mask) - 1 for row in found) == sum(info.steps - 1 for _, info in written)


@given(data=st.data())
def test_values_that_are_not_finite_are_refused(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp("nan", numbered=True)
  header = data.draw(_header())
  episode, info = data.draw(_episode(header, 4))
  fields = {"action": episode.action, "reward": episode.reward}
  parts = observations.unpack(episode.observation)
  fields |= {name: x for name, x in parts.items() if x.dtype == np.float32}
  name = data.draw(st.sampled_from(list(fields)))
  bad = fields[name].copy()
  bad.flat[data.draw(st.integers(0, bad.size - 1))] = data.draw(
    st.sampled_from([np.nan, np.inf, -np.inf])
  )
  if name in parts:
    episode = episode._replace(observation=observations.pack({**parts, name: bad}))
  else:
    episode = episode._replace(**{name: bad})
  with pytest.raises(ValueError, match=r"^Episode of seed 4: .* holds NaN or infinity\.$"):
    rollouts.write_dataset(folder, [(episode, info)], header)
