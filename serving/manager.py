"""Which versions of which models are loaded: polling, hot reload, and what is told about it.

The life of a version: START, LOADING, AVAILABLE, UNLOADING, END. A model's new version is loaded
and warmed up while the old one serves; only then the old one goes, and only when the last call
that uses it has returned. A version that fails goes to END with the reason in its status, the old
one keeps serving, and it is tried again as soon as its files change.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Iterator

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.model import Servable, ServingError, as_serving_error

_State = get_model_status_pb2.ModelVersionStatus
_LOG = logging.getLogger("serving")


class _Version:
  """One version folder, with the number of calls that use it at the moment."""

  def __init__(self, fingerprint: tuple):
    self.fingerprint = fingerprint  # Of its files, from just before they were loaded.
    self.state = _State.LOADING
    self.error: ServingError | None = None
    self.servable: Servable | None = None
    self.users = 0


class _Model:
  def __init__(self, config: model_server_config_pb2.ModelConfig):
    self.config = config
    self.versions: dict[int, _Version] = {}
    self.aspired: dict[int, str] = {}


class ModelManager:
  """Loads, replaces and unloads models while calls go on."""

  def __init__(
    self,
    config: model_server_config_pb2.ModelServerConfig,
    poll_seconds: float = 1.0,
  ):
    """
    Args:
      config: the models, with absolute base paths that hold folders named by integers.
      poll_seconds: how often to look for new versions; 0 means once, at the start.

    Raises:
      ServingError: if the configuration is not one that the official server takes.
    """
    _validate(config)
    self._models = {c.name: _Model(c) for c in config.model_config_list.config}
    self._poll_seconds = poll_seconds
    self._lock = threading.Lock()
    self._stopping = threading.Event()
    self._thread = None

  def start(self, wait: bool = True) -> None:
    """Loads every model, then watches for new versions in a thread.

    Args:
      wait: whether to wait for a base path that does not exist yet or holds no version, as the
        official server does; else it is an error.

    Raises:
      ServingError: if a version does not load (the official server does not start either).
    """
    for name, model in self._models.items():
      while not self._find_versions(name, model):
        message = (
          f"No versions of servable {name} found under base path {model.config.base_path}. Did"
          " you forget to name your leaf directory as a number (eg. '/1/')?"
        )
        if not wait:
          raise ServingError(grpc.StatusCode.NOT_FOUND, message)
        _LOG.warning("%s Waiting for one.", message)
        if self._stopping.wait(self._poll_seconds or 1.0):
          raise ServingError(grpc.StatusCode.CANCELLED, f"stopped while waiting for model {name}")
    for name, model in self._models.items():
      self._update(name, model)
    self._raise_if_unavailable()
    if self._poll_seconds > 0:
      self._thread = threading.Thread(target=self._watch, name="model-versions", daemon=True)
      self._thread.start()

  def stop(self) -> None:
    """Ends the watching and unloads everything that no call uses any more."""
    self._stopping.set()
    if self._thread is not None:
      self._thread.join()
    for name, model in self._models.items():
      model.aspired = {}
      self._update(name, model)

  @contextlib.contextmanager
  def acquire(self, spec: model_pb2.ModelSpec) -> Iterator[tuple[int, Servable]]:
    """Resolves a ModelSpec and holds that version while the block runs.

    Yields:
      `(version, servable)`.

    Raises:
      ServingError: with the official server's code and message.
    """
    with self._lock:
      number, version = self._resolve(spec)
      version.users += 1
    try:
      yield number, version.servable
    finally:
      with self._lock:
        version.users -= 1

  def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of one version, or of all of them, newest first; ended ones stay listed.

    Raises:
      ServingError: if there is no such model or version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    with self._lock:
      model = self._models.get(spec.name)
      versions = model.versions if model else {}
      numbers = sorted(versions, reverse=True)
      if spec.HasField("version"):
        numbers = [n for n in numbers if n == spec.version.value]
      if not numbers:
        which = f"version {spec.version.value}" if spec.HasField("version") else "any versions"
        raise ServingError(
          grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}"
        )
      for number in numbers:
        status = response.model_version_status.add(version=number, state=versions[number].state)
        status.status.SetInParent()
        if error := versions[number].error:
          status.status.error_code = error.code.value[0]
          status.status.error_message = error.message
    return response

  def _resolve(self, spec) -> tuple[int, _Version]:
    if not spec.name:
      raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
      raise ServingError(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"Unrecognized servable version label: {spec.version_label}",
      )
    model = self._models.get(spec.name)
    available = {
      number: version
      for number, version in (model.versions if model else {}).items()
      if version.state == _State.AVAILABLE
    }
    if choice == "version":
      number, request = spec.version.value, f"Specific({spec.name}, {spec.version.value})"
    else:
      number, request = max(available, default=None), f"Latest({spec.name})"
    if number not in available:
      raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
    return number, available[number]

  def _watch(self) -> None:
    while not self._stopping.wait(self._poll_seconds):
      for name, model in self._models.items():
        try:
          self._find_versions(name, model)
          self._update(name, model)
        except Exception:  # The watch must outlive whatever happens to a file system.
          _LOG.exception("Looking for versions of model %s failed", name)

  def _find_versions(self, name: str, model: _Model) -> bool:
    """Sets the versions that should be served; a base path that is gone changes nothing."""
    base = model.config.base_path
    try:
      found = {
        int(entry.name): entry.path
        for entry in os.scandir(base)
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
      }
    except OSError as error:
      _LOG.warning("Could not find base path %s for servable %s: %s", base, name, error)
      return False
    policy = model.config.model_version_policy
    match policy.WhichOneof("policy_choice"):
      case "all":
        wanted = set(found)
      case "specific":
        wanted = set(policy.specific.versions) & set(found)
      case _:
        wanted = set(sorted(found)[-max(policy.latest.num_versions, 1) :])
    model.aspired = {number: found[number] for number in wanted}
    return bool(wanted)

  def _update(self, name: str, model: _Model) -> None:
    """Loads what is aspired and not loaded, then retires what is not aspired."""
    for number, path in sorted(model.aspired.items()):
      version = model.versions.get(number)
      # One that was unloaded is wanted again, or one that failed has changed on disk.
      if version is None or (
        version.state == _State.END
        and (version.error is None or version.fingerprint != _fingerprint(path))
      ):
        self._load(name, number, model, path)
    if all(model.versions[n].state == _State.AVAILABLE for n in model.aspired):
      with self._lock:
        for number, version in model.versions.items():
          if number not in model.aspired and version.state == _State.AVAILABLE:
            version.state = _State.UNLOADING
    self._free(name, model)

  def _load(self, name, number, model, path) -> None:
    # Taken before loading: a file that arrives meanwhile gives a failed version another try.
    version = _Version(_fingerprint(path))
    with self._lock:
      model.versions[number] = version
    _LOG.info("Loading servable {name: %s version: %d}", name, number)
    try:
      servable = Servable(path)
    except Exception as error:
      error = as_serving_error(error)
      _LOG.error("Loading servable {name: %s version: %d} failed: %s", name, number, error)
      with self._lock:
        version.state, version.error = _State.END, error
      return
    with self._lock:
      version.servable, version.state = servable, _State.AVAILABLE
    _LOG.info("Successfully loaded servable version {name: %s version: %d}", name, number)

  def _free(self, name: str, model: _Model) -> None:
    """Frees the retired versions that no call uses any more."""
    freed = []
    with self._lock:
      for number, version in model.versions.items():
        if version.state == _State.UNLOADING and version.users == 0:
          freed.append(version.servable)
          version.servable, version.state = None, _State.END
          _LOG.info("Unloaded servable version {name: %s version: %d}", name, number)
    for servable in freed:
      servable.close()
    if freed:
      gc.collect()  # A TensorFlow graph is full of cycles, and as large as its model.

  def _raise_if_unavailable(self) -> None:
    failed = [
      f"{{{{name: {name} version: {number}}} due to error: {version.error}}}, "
      for name, model in self._models.items()
      for number, version in model.versions.items()
      if version.state != _State.AVAILABLE
    ]
    if failed:
      raise ServingError(
        grpc.StatusCode.UNKNOWN,
        f"{len(failed)} servable(s) did not become available: {{{''.join(failed)}}}",
      )


def model_config(models: dict[str, str]) -> model_server_config_pb2.ModelServerConfig:
  """The configuration that serves the newest version of each of `{name: base path}`."""
  config = model_server_config_pb2.ModelServerConfig()
  for name, path in models.items():
    config.model_config_list.config.add(
      name=name, base_path=os.path.abspath(path), model_platform="tensorflow"
    )
  return config


def _validate(config: model_server_config_pb2.ModelServerConfig) -> None:
  names = set()
  for model in config.model_config_list.config:
    problem = None
    if model.name in names:
      problem = f"Illegal to list model {model.name} multiple times in config list"
    elif not os.path.isabs(model.base_path):
      problem = (
        f"Expected model {model.name} to have an absolute path or URI;"
        f" got base_path()={model.base_path}"
      )
    elif model.model_platform != "tensorflow":
      problem = (
        f'Model {model.name} needs model_platform: "tensorflow" in its configuration;'
        f" got {model.model_platform!r}"
      )
    if problem:
      raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, problem)
    names.add(model.name)
    for version in model.version_labels.values():  # Nothing is loaded yet, so: as the official one.
      raise ServingError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Request to assign label to version {version} of model {model.name},"
        " which is not currently available for inference",
      )


def _fingerprint(path: str) -> tuple:
  """Sizes and times of all files in a version folder."""
  files = []
  for folder, _, names in os.walk(path):
    for name in names:
      with contextlib.suppress(OSError):
        info = os.stat(os.path.join(folder, name))
        files.append((folder, name, info.st_size, info.st_mtime_ns))
  return tuple(sorted(files))
