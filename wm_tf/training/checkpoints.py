"""Saves state so that a process that is killed at any time loses nothing that was saved before.

There is one file format: an uncompressed `.npz` (readable with NumPy alone) with one entry for each
leaf of a nest. A single file can be replaced atomically, and the zip format has a CRC-32 of every
entry. Names, shapes and dtypes are compared before anything is assigned, so that an error names the
variable that does not fit. The errors of `tf.train.Checkpoint` do not.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from wm_tf.core import Nest
from wm_tf.files import atomic_open, user_path


class CheckpointMismatchError(ValueError):
  """A file holds another structure than the one that it is loaded into."""


class CorruptCheckpointError(RuntimeError):
  """A file is truncated or damaged."""


def map_with_path(fn: Callable[[str, Any], Any], nest: Nest, path: str = "") -> Nest:
  """Applies `fn(path, leaf)` to every leaf.

  Args:
    fn: takes a path such as `"latent/0/loc"`, and a leaf.
    nest: tuples, named tuples, lists and mappings are structure; `None` is an empty structure.
    path: prefix of the paths.

  Returns:
    A nest of what `fn` returns.
  """

  def join(key):
    return f"{path}/{key}" if path else str(key)

  if nest is None:
    return None
  if isinstance(nest, tuple) and hasattr(nest, "_fields"):
    fields = zip(nest._fields, nest, strict=True)
    return type(nest)(*(map_with_path(fn, value, join(name)) for name, value in fields))
  if isinstance(nest, (tuple, list)):
    return type(nest)(map_with_path(fn, value, join(i)) for i, value in enumerate(nest))
  if isinstance(nest, Mapping):
    return {key: map_with_path(fn, value, join(key)) for key, value in nest.items()}
  return fn(path or "value", nest)


def flatten_with_path(nest: Nest) -> dict[str, Any]:
  """Flattens a nest to its leaves by path.

  Args:
    nest: see `map_with_path`.

  Returns:
    Path, such as `"latent/0/loc"`, to leaf, in order.

  Raises:
    ValueError: if two leaves have the same path.
  """
  leaves = {}

  def add(path, leaf):
    if path in leaves:
      raise ValueError(f"Two leaves of the nest have the same path {path!r}; rename a key.")
    leaves[path] = leaf

  map_with_path(add, nest)
  return leaves


def save_nest(path: str | os.PathLike, nest: Nest) -> None:
  """Writes a nest of tensors, arrays, numbers and strings to one `.npz`, exactly and atomically.

  Args:
    path: the file to write or replace.
    nest: tuples, named tuples, lists and dicts of tensors, NumPy arrays, variables, `bool`, `int`,
      `float` or `str`.

  Raises:
    ValueError: if a leaf is something else, such as another Python object.
  """
  arrays = {name: np.asarray(leaf) for name, leaf in flatten_with_path(nest).items()}
  for name, array in arrays.items():
    if array.dtype.kind == "O":
      raise ValueError(f"{name!r} cannot be saved: it is neither a number, a string nor an array.")
  with atomic_open(path) as file, zipfile.ZipFile(file, "w") as archive:
    for name, array in arrays.items():
      # A bare ZipInfo has a fixed date: the same nest gives the same bytes.
      with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def load_nest(path: str | os.PathLike, like: Nest) -> Nest:
  """Reads a nest that `save_nest` wrote.

  Args:
    path: the file.
    like: a nest of the same structure, shapes and dtypes; its values do not matter.

  Returns:
    A nest like `like`: tensors where it has tensors, Python scalars and strings where it has
    those, NumPy arrays elsewhere.

  Raises:
    FileNotFoundError: if there is no such file.
    CorruptCheckpointError: if the file is damaged.
    CheckpointMismatchError: if an entry is missing, unknown, or of another shape or dtype.
  """
  expected, arrays = flatten_with_path(like), read_arrays(path)
  for name, leaf in expected.items():
    if name not in arrays:
      raise CheckpointMismatchError(
        f"{path} has no {name!r}, which is expected here; {_difference(arrays, expected)}"
      )
    arrays[name] = _convert(path, name, arrays[name], leaf)
  for name in arrays:
    if name not in expected:
      raise CheckpointMismatchError(
        f"{path} has {name!r}, which is unknown here; {_difference(arrays, expected)}"
      )
  return map_with_path(lambda name, leaf: arrays[name], like)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the leaves of a nest that `save_nest` wrote.

  Args:
    path: the file.

  Returns:
    Path of the leaf to its array.

  Raises:
    FileNotFoundError: if there is no such file.
    CorruptCheckpointError: if the file is damaged.
  """
  with open(user_path(path), "rb") as file:
    try:
      archive = np.load(file, allow_pickle=False)
      return {name: archive[name] for name in archive.files}
    except Exception as error:  # Damage can raise errors in any layer of zip and npy parsing.
      raise CorruptCheckpointError(
        f"{path} is damaged ({error}). Remove it; the command that made it makes it again."
      ) from error


def _difference(found, expected) -> str:
  return (
    f"it holds {len(found)} entries and {len(expected)} are expected. It was written by another "
    "model or version, or this model is not built yet (call it once, then load)."
  )


def _convert(path, name: str, array: np.ndarray, leaf: Any) -> Any:
  if isinstance(leaf, str):
    return str(array)
  template = np.asarray(leaf)
  if array.dtype.kind == "V" and array.dtype.itemsize == template.dtype.itemsize:
    array = array.view(template.dtype)  # NumPy does not keep the names of bfloat16 and similar.
  if array.shape != template.shape or array.dtype != template.dtype:
    raise CheckpointMismatchError(
      f"{path}: {name!r} is {array.dtype}{list(array.shape)} in the file, and "
      f"{template.dtype}{list(template.shape)} is expected. It was written by another model or "
      "configuration."
    )
  if tf.is_tensor(leaf):
    return tf.convert_to_tensor(array)
  return array if hasattr(leaf, "shape") else array.item()


def name_variables(variables) -> dict[str, Any]:
  """Names variables by position, layer and role, such as `"003/dense/kernel"`.

  Keras numbers layers per process (`dense_1`) and prefixes the name of the layer that was called
  first, so equal models can have different paths. Position, layer kind and role do not change.

  Args:
    variables: Keras variables, in the order of the model.

  Returns:
    Name to variable, in the same order.
  """
  names = {}
  for i, variable in enumerate(variables):
    parts = re.sub(r"_\d+(?=/|$)", "", variable.path).split("/")
    names[f"{i:03d}/{'/'.join(parts[-2:])}"] = variable
  return names


def values(variables: Nest) -> Nest:
  """Reads the values of a nest of variables.

  Args:
    variables: a nest of Keras or TensorFlow variables.

  Returns:
    A nest of NumPy arrays.
  """
  return tf.nest.map_structure(lambda variable: variable.numpy(), variables)


def assign(variables: Nest, values: Nest) -> None:
  """Assigns values to a nest of variables.

  Args:
    variables: the variables.
    values: a nest of the same structure, from `values` or `load_nest`.
  """
  tf.nest.map_structure(lambda variable, value: variable.assign(value), variables, values)


def save_weights(model: keras.Model, path: str | os.PathLike) -> None:
  """Writes the weights of a built Keras model to one `.npz`, atomically.

  Args:
    model: the model.
    path: the file to write or replace.
  """
  save_nest(path, name_variables(model.weights))


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
  """Loads what `save_weights` wrote into a built Keras model. An error leaves the model unchanged.

  Args:
    model: the model.
    path: the file.

  Raises:
    FileNotFoundError, CorruptCheckpointError, CheckpointMismatchError: see `load_nest`.
  """
  weights = name_variables(model.weights)
  assign(weights, load_nest(path, weights))


class Checkpoints:
  """The latest states of a run in a folder, one file for each step: `step-00001200.npz`.

  Attributes:
    directory: the folder, created by the first `save`.
    keep: number of latest files that are kept.
  """

  def __init__(self, directory: str | os.PathLike, keep: int = 2):
    """Creates the object, but not the folder.

    Args:
      directory: the folder of the checkpoints.
      keep: number of latest files to keep, at least 1.

    Raises:
      ValueError: if `keep` is less than 1.
    """
    if keep < 1:
      raise ValueError(f"keep must be at least 1, not {keep}.")
    self.directory = user_path(directory)
    self.keep = keep

  def path(self, step: int) -> Path:
    """Returns the file of a step, which need not exist.

    Args:
      step: the step.

    Returns:
      The path of the file.
    """
    return self.directory / f"step-{step:08d}.npz"

  def steps(self) -> list[int]:
    """Returns the saved steps, ascending."""
    matches = (re.fullmatch(r"step-(\d+)\.npz", path.name) for path in self.directory.glob("*"))
    return sorted(int(match[1]) for match in matches if match)

  def save(self, step: int, nest: Nest) -> None:
    """Saves a nest, then removes all but the latest `keep` files.

    Args:
      step: the step; an existing file of this step is replaced.
      nest: see `save_nest`.
    """
    save_nest(self.path(step), nest)
    self._remove(self.steps()[: -self.keep])

  def restore(self, like: Nest) -> tuple[int, Nest] | None:
    """Loads the latest undamaged file.

    A damaged file is named in a warning and removed, and the one before it is used. If all files
    are damaged, that is an error, since starting over would hide it.

    Args:
      like: see `load_nest`.

    Returns:
      `(step, nest)`; None if nothing was saved.

    Raises:
      CorruptCheckpointError: if every file is damaged.
      CheckpointMismatchError: if the latest undamaged file does not fit `like`.
    """
    steps = self.steps()
    damaged = []
    for step in reversed(steps):
      try:
        nest = load_nest(self.path(step), like)
      except CorruptCheckpointError as error:
        damaged.append(step)
        warnings.warn(f"{error} Trying the checkpoint before it.", RuntimeWarning, stacklevel=2)
        continue
      self._remove(damaged)
      return step, nest
    if damaged:
      raise CorruptCheckpointError(
        f"Every checkpoint in {self.directory} is damaged. Delete that folder to start over."
      )
    return None

  def rewind(self, step: int) -> None:
    """Removes the files of later steps.

    Args:
      step: the step that the run continues from.
    """
    self._remove([saved for saved in self.steps() if saved > step])

  def clear(self) -> None:
    """Removes all checkpoints, and the folder if it is empty then."""
    self._remove(self.steps())
    with contextlib.suppress(OSError):
      self.directory.rmdir()

  def _remove(self, steps: Iterable[int]) -> None:
    for step in steps:
      self.path(step).unlink()
    for half_written in self.directory.glob(".step-*.tmp"):  # Left by a process that was killed.
      half_written.unlink()
