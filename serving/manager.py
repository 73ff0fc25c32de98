"""Manages the served models: their configuration, reloads, labels, and the watch for versions."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ServingError, invalid
from serving.model import Servable
from serving.versions import ModelVersions, Version

_LOG = logging.getLogger("serving")


class ModelManager:
  """Loads, replaces and unloads models without interrupting calls."""

  def __init__(
    self,
    config: model_server_config_pb2.ModelServerConfig,
    load: Callable[[str], Servable] = Servable,
    poll_seconds: float = 1.0,
    labels_before_loading: bool = False,
  ):
    """
    Args:
      config: the models, with absolute base paths that contain folders named by integers.
      load: creates a servable from the path of a version folder.
      poll_seconds: seconds between two searches for new versions; 0 searches only at the start.
      labels_before_loading: whether a new label may name a version that is not available; see the
        flag `--allow_version_labels_for_unavailable_models`.

    Raises:
      ServingError: if the official server would refuse the configuration.
    """
    self._load, self._poll_seconds = load, poll_seconds
    self._labels_before_loading = labels_before_loading
    # Replaced as a whole and never modified, so that calls read them without a lock.
    self._models: dict[str, ModelVersions] = {}
    self._labels: dict[str, dict[str, int]] = {}
    self._updating = threading.Lock()
    self._stopping = threading.Event()
    self._thread = None
    self._configure(config)

  def start(self, wait: bool = True) -> None:
    """Loads every model, then starts a thread that watches for new versions.

    Args:
      wait: whether to wait for a base path that does not exist or has no version yet, as the
        official server does. Otherwise this is an error.

    Raises:
      ServingError: if a version does not load (the official server does not start either), or the
        manager is stopped while it waits.
    """
    for model in self._models.values():
      while not model.find():
        if not wait:
          raise model.problem
        if self._stopping.wait(self._poll_seconds or 1.0):
          message = f"stopped while waiting for model {model.name}"
          raise ServingError(grpc.StatusCode.CANCELLED, message)
    for model in self._models.values():
      model.update()
    _raise_if_unavailable(self._models.values(), "servable")
    self._thread = threading.Thread(target=self._watch, name="model-versions", daemon=True)
    self._thread.start()

  def stop(self) -> None:
    """Stops watching, and unloads every version that no call is using."""
    self._stopping.set()
    if self._thread is not None:
      self._thread.join()
    with self._updating:
      for model in self._models.values():
        model.configure(None)
        model.find()
        model.update(collect=False)
    gc.collect()  # Once, since it takes seconds in a large process.

  def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
    """Replaces the configuration: the list of models, versions and labels.

    Models that are not in the new list are unloaded. New models are available when this returns. An
    invalid configuration changes nothing.

    Args:
      config: the new configuration.

    Raises:
      ServingError: if the configuration is invalid, or a new model cannot be loaded. Such a model
        stays in the list, and is loaded again when its files change.
    """
    if config.WhichOneof("config") != "model_config_list":
      raise invalid(
        "ServerModelConfig type not supported by HandleReloadConfigRequest."
        " Only ModelConfigList is currently supported"
      )
    with self._updating:
      before = {name for name, model in self._models.items() if model.configured}
      self._configure(config)
      for model in self._models.values():
        model.find()
        model.update()
      listed = [self._models[c.name] for c in config.model_config_list.config]
      _raise_if_unavailable([m for m in listed if m.name not in before], "model")

  def acquire(self, spec: model_pb2.ModelSpec) -> Version:
    """Resolves a ModelSpec to a version.

    Args:
      spec: the model's name, and a version number, a version label or neither for the newest one.

    Returns:
      A version for use in a `with` block. It stays loaded until the block ends.

    Raises:
      ServingError: if there is no such model, version or label, with the official server's code and
        message.
    """
    name = spec.name
    if not name:
      raise invalid("ModelSpec has no name specified.")
    model = self._models.get(name)
    choice = spec.WhichOneof("version_choice")
    if choice is None:
      number, request = None, f"Latest({name})"
    else:
      number = spec.version.value if choice == "version" else self._labelled(spec)
      request = f"Specific({name}, {number})"
    version = model.acquire(number) if model is not None else None
    if version is None:
      raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
    return version

  def knows(self, name: str) -> bool:
    """Returns whether a model is, or was, in the configuration.

    Args:
      name: the model's name.
    """
    return name in self._models

  def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the states of a model's versions, including unloaded ones.

    Args:
      spec: the model's name; with a version number, the response has only that version.

    Returns:
      The response of `GetModelStatus`, newest version first.

    Raises:
      ServingError: NOT_FOUND, if there is no such model or version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    model = self._models.get(spec.name)
    statuses = model.statuses() if model is not None else []
    which = "any versions"
    if spec.HasField("version"):
      number, which = spec.version.value, f"version {spec.version.value}"
      statuses = [status for status in statuses if status.number == number]
    if not statuses:
      raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
    for number, state, error in statuses:
      status = response.model_version_status.add(version=number, state=state)
      status.status.SetInParent()
      if error is not None:
        status.status.error_code = error.code.value[0]
        status.status.error_message = error.message
    return response

  def _labelled(self, spec: model_pb2.ModelSpec) -> int:
    number = self._labels.get(spec.name, {}).get(spec.version_label)
    if number is None:
      raise invalid(f"Unrecognized servable version label: {spec.version_label}")
    return number

  def _configure(self, config: model_server_config_pb2.ModelServerConfig) -> None:
    """Applies a configuration; an invalid one raises ServingError and changes nothing."""
    configs = {c.name: c for c in config.model_config_list.config}
    _validate(config)
    self._check_labels(configs)
    models = dict(self._models)  # Removed models stay known, for their status.
    for name in configs:
      models.setdefault(name, ModelVersions(name, self._load))
    for name, model in models.items():
      model.configure(configs.get(name))
    self._models = models
    self._labels = {name: dict(c.version_labels) for name, c in configs.items()}

  def _check_labels(self, configs) -> None:
    for name, config in configs.items():
      model, old = self._models.get(name), self._labels.get(name, {})
      for label, number in config.version_labels.items():
        if model is not None and model.is_available(number):
          continue
        # A label in use must never move to an unavailable version, whatever the flag says.
        if self._labels_before_loading and old.get(label, number) == number:
          continue
        raise ServingError(
          grpc.StatusCode.FAILED_PRECONDITION,
          f"Request to assign label to version {number} of model {name},"
          " which is not currently available for inference",
        )

  def _watch(self) -> None:
    while not self._stopping.wait(self._poll_seconds or 1.0):
      with self._updating:
        for model in self._models.values():
          try:
            if self._poll_seconds:
              model.find()
              model.update()
            else:
              model.free()
          except Exception:  # An error of the file system must not stop the watch.
            _LOG.exception("Looking for versions of model %s failed", model.name)


def _raise_if_unavailable(models, kind: str) -> None:
  """Raises ServingError with every version that should be served and did not load."""
  failed = [f"{{{failure}}}, " for model in models for failure in model.failures()]
  if failed:
    raise ServingError(
      grpc.StatusCode.UNKNOWN,
      f"{len(failed)} {kind}(s) did not become available: {{{''.join(failed)}}}",
    )


def model_config(models: dict[str, str]) -> model_server_config_pb2.ModelServerConfig:
  """Creates the configuration that serves the newest version of each model.

  Args:
    models: `{name: base path}`; relative paths are made absolute.

  Returns:
    The configuration.
  """
  config = model_server_config_pb2.ModelServerConfig()
  for name, path in models.items():
    config.model_config_list.config.add(
      name=name, base_path=os.path.abspath(path), model_platform="tensorflow"
    )
  return config


def _validate(config: model_server_config_pb2.ModelServerConfig) -> None:
  names = set()
  for model in config.model_config_list.config:
    if model.name in names:
      raise invalid(f"Illegal to list model {model.name} multiple times in config list")
    names.add(model.name)
  for model in config.model_config_list.config:
    if not os.path.isabs(model.base_path):
      raise invalid(
        f"Expected model {model.name} to have an absolute path or URI;"
        f" got base_path()={model.base_path}"
      )
  for model in config.model_config_list.config:
    if not model.model_platform:
      raise invalid(
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"
        f" ModelServerConfig::model_platform, model name is {model.name}"
      )
    if model.model_platform != "tensorflow":
      raise invalid(
        f"Model {model.name} requests unsupported platform {model.model_platform};"
        ' here it is model_platform: "tensorflow"'
      )
