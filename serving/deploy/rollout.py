"""Tries, promotes and rolls back model versions on running servers.

  python -m serving.deploy.rollout status
  python -m serving.deploy.rollout canary --version=7   # load 7, probe it, label it "canary"
  python -m serving.deploy.rollout promote              # probe it again, label it "stable"
  python -m serving.deploy.rollout rollback             # "stable" as it was before

It edits --config, a text proto of ModelServerConfig, and sends it to every server as a
HandleReloadConfigRequest. The labels `stable`, `canary` and `previous` in this file are the only
stored state. The file is written last, when every server has accepted the change. If a server
fails, or a version fails its probe, all servers get their old configuration back, and the exit
status is 1.

The probe calls `spec`, `initial_state` and some steps of `act` with a batch. All outputs must be
finite, actions must be within their bounds, and equal requests must have equal results.
--max_latency_ms adds a limit on the latency, and --probe_command a command that must succeed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.client import TLS
from serving.deploy.servers import RolloutError, Server, State, probe, resolve


class Rollout:
  """A models.config file and the servers that use it.

  Attributes:
    servers: the connections to the servers.
  """

  def __init__(
    self,
    config: str | os.PathLike,
    targets: Iterable[str],
    model: str = "planner",
    tls: TLS | None = None,
    timeout: float = 300.0,
    max_latency_ms: float = 0.0,
    probe_command: str | None = None,
    say=print,
  ):
    """
    Args:
      config: the file to edit.
      targets: `host:port` of each server.
      model: name of the model to roll out.
      tls: the files for an encrypted connection; plain text if None.
      timeout: seconds that a version may take to load.
      max_latency_ms: the largest accepted median time of a step, in milliseconds; 0 for no limit.
      probe_command: a command that must succeed too, with the fields `{target}`, `{model}` and
        `{version}`; None for no command.
      say: function that logs a line.

    Raises:
      RolloutError: if the file cannot be read or has no such model, or `probe_command` has other
        fields.
    """
    self._path, self._model, self._tls = os.fspath(config), model, tls
    self._timeout, self._max_latency_ms = timeout, max_latency_ms
    self._probe_command, self._say = probe_command, say
    try:
      with open(self._path) as file:
        text = file.read()
      self._config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, text_format.ParseError) as error:
      raise RolloutError(f"--config={self._path}: {error}") from error
    self._comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    self._entry(self._config)
    if probe_command:
      self._command("host:port", 1)
    self.servers = [Server(target, tls) for target in targets]

  @property
  def labels(self) -> dict[str, int]:
    """The version number of each label in the file."""
    return dict(self._entry(self._config).version_labels)

  def status(self) -> None:
    """Logs the labels in the file and the versions on every server.

    Raises:
      RolloutError: if a server does not answer.
    """
    self._say(f"{self._path}: {self._describe()}")
    for server in self.servers:
      for version, status in sorted(server.status(self._model).items()):
        labels = [name for name, number in self.labels.items() if number == version]
        state = State.State.Name(status.state)
        text = " ".join([f"{server.target} version {version}: {state}", *sorted(labels)])
        self._say(f"{text} {status.status.error_message}".rstrip())

  def canary(self, version: int) -> None:
    """Loads a version in addition to the stable one, probes it, and labels it `canary`.

    Args:
      version: the version number.

    Raises:
      RolloutError: if the version is stable already, does not load or fails its probe. The servers
        then have their old configuration.
    """
    stable = self._stable()
    if version == stable:
      raise RolloutError(f"version {version} is stable already")
    labels = {"stable": stable, "canary": version}
    if "previous" in self.labels:
      labels["previous"] = self.labels["previous"]
    self._change(labels, on_trial=version)

  def promote(self) -> None:
    """Probes the canary and labels it `stable`. The old version stays loaded as `previous`.

    Raises:
      RolloutError: if there is no canary, or it fails its probe. The servers then have their old
        configuration.
    """
    stable, version = self._stable(), self.labels.get("canary")
    if version in (None, stable):
      raise RolloutError("there is no canary to promote: see `rollout canary --version=N`")
    self._change({"stable": version, "canary": version, "previous": stable}, on_trial=version)

  def rollback(self) -> None:
    """Ends the trial of a canary. If there is none, labels the previous version `stable` again.

    The version is not probed, because it was stable before and a rollback must be fast.

    Raises:
      RolloutError: if there is neither a canary nor a previous version, or a server fails.
    """
    stable, labels = self._stable(), self.labels
    if labels.get("canary", stable) != stable:
      kept = {"previous": labels["previous"]} if "previous" in labels else {}
      self._change({"stable": stable, "canary": stable, **kept})
    elif "previous" in labels:
      self._change({"stable": labels["previous"], "canary": labels["previous"]})
    else:
      raise RolloutError(f"version {stable} is the first stable one: nothing to roll back to")

  def close(self) -> None:
    """Closes the connections."""
    for server in self.servers:
      server.close()

  def _entry(self, config):
    for entry in config.model_config_list.config:
      if entry.name == self._model:
        return entry
    raise RolloutError(f"--config={self._path} has no model {self._model!r}")

  def _stable(self) -> int:
    if "stable" not in self.labels:
      raise RolloutError(
        f"--config={self._path}: model {self._model!r} has no version_labels "
        '{ key: "stable" value: N }: add it for the version that is to begin with'
      )
    return self.labels["stable"]

  def _with(self, versions: Iterable[int], labels: Mapping[str, int]):
    config = model_server_config_pb2.ModelServerConfig()
    config.CopyFrom(self._config)
    entry = self._entry(config)
    entry.model_version_policy.specific.versions[:] = sorted(set(versions))
    entry.version_labels.clear()
    entry.version_labels.update(labels)
    return config

  def _change(self, labels: dict[str, int], on_trial: int | None = None) -> None:
    """Changes the labels on every server: loads, probes and labels, then unloads other versions."""
    old, new = self._config, self._with(labels.values(), labels)
    every = {*labels.values(), *self.labels.values()}
    try:
      # A label may only name an available version, and a labelled version must stay loaded.
      for server in self.servers:
        server.reload(self._with(every, self.labels), self._timeout)
      for server in self.servers:
        for version in sorted(set(labels.values())):
          server.wait_available(self._model, version, self._timeout)
      if on_trial is not None:
        for server in self.servers:
          self._probe(server, on_trial)
      for server in self.servers:
        server.reload(self._with(every, labels), self._timeout)
      for server in self.servers:
        server.reload(new, self._timeout)
      self._write(new)
    except BaseException as error:  # Also an interrupt: the servers must agree with the file.
      restored = self._restore(old)
      if not isinstance(error, Exception):
        self._say(restored)
        raise
      reason = str(error)
      if not isinstance(error, RolloutError):
        reason = f"{type(error).__name__}: {error}"
      raise RolloutError(f"{reason}\n{restored}") from error
    self._config = new
    self._say(f"{self._path}: {self._describe()}")

  def _write(self, config) -> None:
    """Replaces the file, atomically."""
    part = f"{self._path}.part"
    try:
      with open(part, "w") as file:
        file.write(self._comment + text_format.MessageToString(config))
      os.replace(part, self._path)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(part)
      raise

  def _probe(self, server: Server, version: int) -> None:
    self._say(probe(server.target, self._model, version, server.tls, self._max_latency_ms))
    if self._probe_command:
      command = self._command(server.target, version)
      self._say(shlex.join(command))
      code = subprocess.run(command).returncode
      if code:
        raise RolloutError(f"version {version} fails its probe: the command's status is {code}")

  def _command(self, target: str, version: int) -> list[str]:
    """Returns the words of `probe_command` with its fields filled in."""
    names = {"target": target, "model": self._model, "version": version}
    try:
      return [word.format(**names) for word in shlex.split(self._probe_command)]
    except (AttributeError, LookupError, ValueError) as error:
      raise RolloutError(
        f"--probe_command={self._probe_command}: {error}; the fields are {{target}}, {{model}} and "
        "{version}, and a literal brace is doubled"
      ) from error

  def _restore(self, old) -> str:
    """Sends every server its old configuration; returns a message about the result."""
    failed = []
    for server in self.servers:
      try:
        server.reload(old, self._timeout)
      except Exception as error:  # The other servers are restored nevertheless.
        failed.append(str(error))
    if failed:
      return "Restoring the old configuration failed: " + "; ".join(failed)
    return f"Nothing has changed: {self._describe()}"

  def _describe(self) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(self.labels.items()))


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--config",
    default=os.path.join(os.path.dirname(__file__), "models.config"),
    help="the models.config file to edit",
  )
  parser.add_argument("--model", default="planner", help="name of the model in --config")
  parser.add_argument(
    "--targets",
    default="localhost:8500",
    help="comma-separated host:port of the servers; a name that resolves to several addresses, such"
    " as that of a headless service, means all of them",
  )
  parser.add_argument(
    "--timeout", type=float, default=300.0, help="the longest time to load a version, in seconds"
  )
  parser.add_argument(
    "--max_latency_ms",
    type=float,
    default=0.0,
    help="largest accepted median time of a step in the probe, in milliseconds; 0: no limit",
  )
  parser.add_argument(
    "--probe_command",
    help="a command that must succeed too, in which {target}, {model} and {version} are replaced,"
    " such as 'python -m trainers.evaluate --agent=grpc://{target}/{model}/versions/{version}'",
  )
  parser.add_argument("--ca", help="for TLS: PEM file of the servers' certificate authority")
  parser.add_argument("--key", help="for mTLS: PEM file of the client's key")
  parser.add_argument("--certificate", help="for mTLS: PEM file of the client's certificate")
  parser.add_argument("--server_name", help="for TLS: the name in the servers' certificate")
  steps = parser.add_subparsers(dest="step", required=True)
  steps.add_parser("status", help="print the labels in the file and the versions on the servers")
  canary = steps.add_parser("canary", help="load a version, probe it and label it canary")
  canary.add_argument("--version", type=int, required=True)
  steps.add_parser("promote", help="probe the canary and label it stable")
  steps.add_parser("rollback", help="end the trial of a canary, or restore the previous version")
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the command.

  Args:
    arguments: the command-line arguments; `sys.argv[1:]` if None.

  Returns:
    The exit status: 0, or 1 if the step failed.
  """
  args = _parser().parse_args(arguments)
  tls = None
  if args.ca or args.key or args.certificate:
    tls = TLS(args.ca, args.key, args.certificate, args.server_name)
  try:
    if args.server_name and tls is None:
      raise RolloutError(
        "--server_name is the name in a TLS certificate: give --ca too, or --key and --certificate"
      )
    rollout = Rollout(
      args.config,
      resolve(args.targets.split(",")),
      args.model,
      tls,
      args.timeout,
      args.max_latency_ms,
      args.probe_command,
    )
    with contextlib.closing(rollout):
      step = getattr(rollout, args.step)
      step(*([args.version] if args.step == "canary" else []))
  except (RolloutError, OSError, ValueError) as error:
    print(f"rollout {args.step}: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
