"""Reads the official server's configuration files: models, TLS, monitoring and batching.

The files are text protos. The Python serving API lacks most of their messages, so they are declared
here.
"""

from __future__ import annotations

import os
from typing import TypeVar

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from serving import metrics, protos

_M = TypeVar("_M", bound=Message)
_MESSAGES = protos.declare(
  "serving/config.proto",
  "wm_tf.serving.config",
  {
    "Int64Value": {"value": (1, "int64")},
    "StringValue": {"value": (1, "string")},
    "BoolValue": {"value": (1, "bool")},
    "SSLConfig": {
      "server_key": (1, "string"),
      "server_cert": (2, "string"),
      "custom_ca": (3, "string"),
      "client_verify": (4, "bool"),
    },
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "BatchingParameters": {
      "max_batch_size": (1, "Int64Value"),
      "batch_timeout_micros": (2, "Int64Value"),
      "max_enqueued_batches": (3, "Int64Value"),
      "num_batch_threads": (4, "Int64Value"),
      "thread_pool_name": (5, "StringValue"),
      "allowed_batch_sizes": (6, "*int64"),
      "pad_variable_length_inputs": (7, "bool"),
      "enable_large_batch_splitting": (8, "BoolValue"),
      "max_execution_batch_size": (9, "Int64Value"),
    },
  },
)
SSLConfig = _MESSAGES["SSLConfig"]
MonitoringConfig = _MESSAGES["MonitoringConfig"]
BatchingParameters = _MESSAGES["BatchingParameters"]


class ConfigError(ValueError):
  """A configuration is invalid, or its file cannot be read; the message names the file."""


def read(path: str | os.PathLike, message: _M) -> _M:
  """Parses a text proto file into a message.

  Args:
    path: the file.
    message: the message to fill.

  Returns:
    `message`.

  Raises:
    ConfigError: if the file cannot be read or parsed.
  """
  try:
    with open(path, encoding="utf-8") as file:
      return text_format.Parse(file.read(), message)
  except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
    raise ConfigError(f"{path}: {error}") from error


def read_models(path: str | os.PathLike) -> model_server_config_pb2.ModelServerConfig:
  """Reads a `--model_config_file`.

  Args:
    path: the file.

  Returns:
    The configuration.

  Raises:
    ConfigError: if the file cannot be read or parsed.
  """
  return read(path, model_server_config_pb2.ModelServerConfig())


def server_credentials(path: str | os.PathLike) -> grpc.ServerCredentials:
  """Creates TLS credentials from an `--ssl_config_file`, which contains PEM text.

  Args:
    path: the file.

  Returns:
    The credentials.

  Raises:
    ConfigError: if the file cannot be read or parsed, or lacks a key, a certificate, or the
      authority that `client_verify` needs.
  """
  config = read(path, SSLConfig())
  if not config.server_key or not config.server_cert:
    raise ConfigError(f"{path}: server_key and server_cert must hold PEM text, not file names")
  for name in ("server_key", "server_cert", "custom_ca"):
    if (text := getattr(config, name)) and "-----BEGIN" not in text:
      raise ConfigError(f"{path}: {name} must hold PEM text (-----BEGIN ...), not a file name")
  if config.client_verify and not config.custom_ca:
    raise ConfigError(f"{path}: client_verify requires custom_ca, which signs the clients")
  return grpc.ssl_server_credentials(
    [(config.server_key.encode(), config.server_cert.encode())],
    config.custom_ca.encode() or None,
    config.client_verify,
  )


def prometheus_path(path: str | os.PathLike) -> str | None:
  """Reads the URL path of the metrics from a `--monitoring_config_file`.

  Args:
    path: the file.

  Returns:
    The URL path, `metrics.PATH` by default; None if Prometheus is not enabled.

  Raises:
    ConfigError: if the file cannot be read or parsed, or the URL path does not begin with `/`.
  """
  config = read(path, MonitoringConfig()).prometheus_config
  if not config.enable:
    return None
  if config.path and not config.path.startswith("/"):
    raise ConfigError(f"{path}: prometheus_config.path must begin with a /: {config.path}")
  return config.path or metrics.PATH
