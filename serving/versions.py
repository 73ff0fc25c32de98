"""Finds, loads, replaces and frees the versions of one model.

The states of a version are START, LOADING, AVAILABLE, UNLOADING and END. The old version serves
while a new one is loaded and warmed up. Then it is unloaded, when the last call that uses it has
returned. A version that fails to load goes to END with the reason in its status. The old one keeps
serving, and the failed one is loaded again when its files change.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grpc
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ServingError, as_serving_error
from serving.model import Servable

State = get_model_status_pb2.ModelVersionStatus
_LOG = logging.getLogger("serving")
_MAX_VERSION = 2**63 - 1


class VersionStatus(NamedTuple):
  """The status of a version.

  Attributes:
    number: the version number.
    state: a `ModelVersionStatus.State`.
    error: why the version failed, or what is wrong with the base path of a version that serves;
      None without an error.
  """

  number: int
  state: int
  error: ServingError | None


class Version:
  """One version folder, and the number of calls that use it.

  The end of a `with` block releases a version that `ModelVersions.acquire` returned.

  Attributes:
    number: the version number.
    path: the version folder.
    state: a `ModelVersionStatus.State`.
    error: why the version failed; None without an error.
    servable: the loaded model; None unless it is AVAILABLE or UNLOADING.
    users: the number of calls that use the version.
    fingerprint: sizes and times of its files just before they were loaded.
  """

  def __init__(self, number: int, path: str, lock: threading.Lock):
    self.number, self.path = number, path
    self.state = State.START
    self.error: ServingError | None = None
    self.servable: Servable | None = None
    self.users = 0
    self.fingerprint: tuple = ()
    self._lock = lock

  def __enter__(self):
    return self

  def __exit__(self, *_):
    with self._lock:
      self.users -= 1


class ModelVersions:
  """The versions of one model. One thread at a time may call `configure`, `find` and `update`.

  Attributes:
    name: the model's name.
    problem: why the last search found no version; None if it found one.
  """

  def __init__(self, name: str, load: Callable[[str], Servable]):
    """
    Args:
      name: the model's name.
      load: creates a servable from the path of a version folder; may raise any exception.
    """
    self.name = name
    self._load_fn = load
    self._config: model_server_config_pb2.ModelConfig | None = None
    self._versions: dict[int, Version] = {}
    self._aspired: dict[int, str] = {}
    self.problem: ServingError | None = None
    self._lock = threading.Lock()

  def configure(self, config: model_server_config_pb2.ModelConfig | None) -> None:
    """Sets the base path and the version policy for the next `find`.

    Args:
      config: the model's configuration; None to unload all versions.
    """
    self._config = config

  @property
  def configured(self) -> bool:
    """Whether the model is in the current configuration."""
    return self._config is not None

  def acquire(self, number: int | None = None) -> Version | None:
    """Acquires a version for a `with` block, during which it stays loaded.

    Args:
      number: the version number; None for the newest available version.

    Returns:
      The version; None if it is not available.
    """
    with self._lock:
      if number is None:
        newest = [v for v in self._versions.values() if v.state == State.AVAILABLE]
        version = max(newest, key=lambda v: v.number, default=None)
      else:
        version = self._versions.get(number)
      if version is None or version.state != State.AVAILABLE:
        return None
      version.users += 1
      return version

  def statuses(self) -> list[VersionStatus]:
    """Returns the statuses of all versions, including unloaded and failed ones.

    Returns:
      The statuses, newest version first.
    """
    with self._lock:
      result = []
      for number in sorted(self._versions, reverse=True):
        version = self._versions[number]
        serving = version.state == State.AVAILABLE
        error = self.problem if serving and not version.error else version.error
        result.append(VersionStatus(number, version.state, error))
      return result

  def is_available(self, number: int) -> bool:
    """Returns whether a version is in the state AVAILABLE.

    Args:
      number: the version number.
    """
    with self._lock:
      version = self._versions.get(number)
      return version is not None and version.state == State.AVAILABLE

  def failures(self) -> list[str]:
    """Describes why versions that should be served are not available.

    Returns:
      A description for each such version.
    """
    with self._lock:
      wanted = [self._versions[number] for number in sorted(self._aspired)]
    failed = [v for v in wanted if v.state != State.AVAILABLE]
    texts = [f"{{name: {self.name} version: {v.number}}} due to error: {v.error}" for v in failed]
    if not wanted and self.problem is not None:
      texts.append(f"{{name: {self.name}}} due to error: {self.problem}")
    return texts

  def find(self) -> bool:
    """Searches the base path, and selects the versions that should be served.

    If it finds no version, it keeps the previous selection: a base path that is missing or empty,
    or that lacks every version of the policy, is a mistake or an unmounted disk. The statuses then
    have the reason.

    Returns:
      Whether it found a version to serve, or the model is not in the configuration.
    """
    if self._config is None:
      self._aspired, self.problem = {}, None
      return True
    base = self._config.base_path
    try:
      found = dict(_folders(base))
    except OSError as error:
      self._give_reason(f"Could not find base path {base} for servable {self.name}: {error}")
      return False
    policy = self._config.model_version_policy
    match policy.WhichOneof("policy_choice"):
      case "all":
        wanted = set(found)
      case "specific":
        wanted = set(policy.specific.versions)
        self._note_missing(wanted - set(found))
        wanted &= set(found)
      case _:
        wanted = set(sorted(found)[-max(policy.latest.num_versions, 1) :])
    if not wanted:
      self._give_reason(
        f"No versions of servable {self.name} found under base path {base}. Did you forget to name"
        " your leaf directory as a number (eg. '/1/')?"
      )
      return False
    self._aspired, self.problem = {number: found[number] for number in wanted}, None
    return True

  def update(self, collect: bool = True) -> None:
    """Loads the selected versions that are not loaded, then unloads the others.

    Args:
      collect: see `free`.
    """
    todo = []
    with self._lock:
      for number, path in sorted(self._aspired.items()):
        version = self._versions.get(number)
        # An unloaded version was selected again, or a failed one has changed on disk.
        if version is None or (
          version.state == State.END
          and (version.error is None or version.fingerprint != _fingerprint(path))
        ):
          self._versions[number] = version = Version(number, path, self._lock)
          todo.append(version)
    for version in todo:
      self._load(version)
    with self._lock:
      if all(self._versions[n].state == State.AVAILABLE for n in self._aspired):
        for number, version in self._versions.items():
          if number not in self._aspired and version.state == State.AVAILABLE:
            version.state = State.UNLOADING
    self.free(collect)

  def free(self, collect: bool = True) -> None:
    """Frees the versions in the state UNLOADING that no call is using.

    Args:
      collect: whether to run Python's garbage collector, without which their memory stays in use.
    """
    with self._lock:
      unused = [v for v in self._versions.values() if v.state == State.UNLOADING and v.users == 0]
    for version in unused:
      version.servable.close()
      with self._lock:
        version.servable, version.state = None, State.END
      _LOG.info("Unloaded servable version {name: %s version: %d}", self.name, version.number)
    if unused and collect:
      gc.collect()  # A TensorFlow graph has reference cycles, and is as large as its model.

  def _load(self, version: Version) -> None:
    name, number = self.name, version.number
    # Before loading, so that a failed version is tried again if a file arrives meanwhile.
    version.fingerprint = _fingerprint(version.path)
    version.state = State.LOADING
    _LOG.info("Loading servable {name: %s version: %d}", name, number)
    try:
      servable = self._load_fn(version.path)
    except Exception as error:
      error = as_serving_error(error)
      _LOG.error("Loading servable {name: %s version: %d} failed: %s", name, number, error)
      with self._lock:
        version.state, version.error = State.END, error
      return
    with self._lock:
      version.servable, version.state = servable, State.AVAILABLE
    _LOG.info("Successfully loaded servable version {name: %s version: %d}", name, number)

  def _note_missing(self, numbers: set[int]) -> None:
    """Sets the status of versions that the policy names and that are not on disk."""
    with self._lock:
      for number in numbers:
        version = self._versions.get(number)
        if version is None or (version.state == State.END and version.error is None):
          version = Version(number, os.path.join(self._config.base_path, str(number)), self._lock)
          version.state = State.END
          version.error = ServingError(
            grpc.StatusCode.NOT_FOUND,
            f"Version {number} of servable {self.name}, which the version policy names, was not"
            f" found in {self._config.base_path}",
          )
          self._versions[number] = version

  def _give_reason(self, message: str) -> None:
    if self.problem is None or self.problem.message != message:  # Once, not at every search.
      _LOG.warning("%s", message)
    self.problem = ServingError(grpc.StatusCode.NOT_FOUND, message)


def _folders(base: str) -> Iterator[tuple[int, str]]:
  """Yields `(version, path)` of the folders in a base path that are named by an integer."""
  for entry in os.scandir(base):
    name = entry.name
    if name.isascii() and name.isdigit() and len(name) < 20 and entry.is_dir():
      number = int(name)
      if number <= _MAX_VERSION:
        yield number, entry.path


def _fingerprint(path: str) -> tuple:
  """Sizes and times of all files in a version folder."""
  files = []
  for folder, _, names in os.walk(path):
    for name in names:
      with contextlib.suppress(OSError):
        info = os.stat(os.path.join(folder, name))
        files.append((folder, name, info.st_size, info.st_mtime_ns))
  return tuple(sorted(files))
