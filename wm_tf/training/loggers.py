"""Loggers of metrics: JSONL, TensorBoard, and progress bars."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from wm_tf.files import DamagedFileError, atomic_open, user_path
from wm_tf.training.films import film_summary


class Logger:
  """Receives metrics. A subclass must define `write` only.

  A step is in the unit of the loop that logs: batches, generations or episodes.
  """

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records metrics at a step.

    Args:
      step: number of steps done.
      metrics: value by name, such as `train/nll` or `eval/nll`.
    """

  def film(self, step: int, name: str, frames: np.ndarray, fps: float = 10.0) -> None:
    """Records a film, if the logger shows pictures.

    Args:
      step: number of steps done.
      name: name of the film.
      frames: `uint8[T, H, W, 3]`.
      fps: frames per second.
    """

  def rewind(self, step: int) -> None:
    """Drops the metrics of later steps; the run continues from `step` and writes them again.

    Args:
      step: last step to keep. A negative step drops everything, also from a damaged file, because
        the run starts over.
    """

  def tick(self, step: int, total: int | None = None) -> None:
    """Reports progress without metrics. It is cheap and is called at each step.

    Args:
      step: number of steps done.
      total: expected number of steps; None if unknown.
    """

  def close(self) -> None:
    """Flushes and releases files."""


class JsonlLogger(Logger):
  """Writes one JSON object per line: `{"step": 100, "train/nll": 1.25}`.

  NaN and infinity become `null`.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = user_path(path)

  def write(self, step, metrics):
    """Appends a line to the file. See `Logger.write`."""
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with open(self.path, "a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step} | finite) + "\n")

  def rewind(self, step):
    """Rewrites the file without later lines, or removes it. See `Logger.rewind`."""
    if not self.path.exists():
      return
    if step < 0:
      self.path.unlink()
      return
    kept = [line for line in read_jsonl(self.path) if line["step"] <= step]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
    if content != self.path.read_bytes():
      with atomic_open(self.path) as file:
        file.write(content)


_REMEDY = "Remove that line, or the file."


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the file of a `JsonlLogger`. An incomplete last line, as a killed run leaves, is skipped.

  Args:
    path: the file.

  Returns:
    One dict for each line.

  Raises:
    FileNotFoundError: if there is no such file.
    DamagedFileError: if a line was not written by a `JsonlLogger`.
  """
  lines = user_path(path).read_bytes().split(b"\n")
  parsed = []
  for i, line in enumerate(lines[:-1]):  # After the last newline is nothing or an incomplete line.
    try:
      parsed.append(json.loads(line))
      if not isinstance(parsed[-1], dict) or type(parsed[-1].get("step")) is not int:
        raise ValueError("no step")
    except (ValueError, RecursionError) as error:
      raise DamagedFileError(path, f"line {i + 1} is not of a log: {error}", _REMEDY) from error
  return parsed


def read_history(path: str | os.PathLike) -> str | None:
  """Reads the text of a `JsonlLogger`'s file, to save it in a checkpoint.

  Args:
    path: the file.

  Returns:
    The text; None if there is no such file.
  """
  path = user_path(path)
  return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def restore_history(path: str | os.PathLike, history: str | None) -> None:
  """Restores a `JsonlLogger`'s file to the text that was saved in a checkpoint.

  Args:
    path: the file.
    history: the text; None leaves the file as it is.
  """
  if history is not None and read_history(path) != history:
    with atomic_open(path) as file:
      file.write(history.encode())


class TensorBoardLogger(Logger):
  """Writes scalars for TensorBoard. A resumed run writes equal values at equal steps again."""

  def __init__(self, directory: str | os.PathLike):
    self._writer = tf.summary.create_file_writer(str(user_path(directory)))

  def write(self, step, metrics):
    """Writes and flushes the scalars. See `Logger.write`."""
    with self._writer.as_default():
      for key, value in metrics.items():
        tf.summary.scalar(key, value, step=step)
    self._writer.flush()

  def film(self, step, name, frames, fps=10.0):
    """Writes an animated picture. See `Logger.film`."""
    summary = film_summary(name, frames, fps)
    with self._writer.as_default():
      tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)
    self._writer.flush()

  def close(self):
    """Closes the event file. See `Logger.close`."""
    self._writer.close()


class Progress:
  """A progress bar with rate and remaining time; plain lines if stderr is not a terminal.

  Use it as an iterable (`for x in progress(xs, "reading")`), or update it explicitly:

      with progress(1000, "steps") as bar:
        bar.update(1, {"loss": 0.3})

  Args:
    iterable: the items to iterate over; None to update explicitly.
    total: expected final count; None if unknown.
    desc: label.
    unit: name of what is counted.
    initial: count at the start, which does not enter the rate.
    stream: the stream to write to; stderr by default.
    seconds_between_lines: time between two plain lines.
  """

  def __init__(
    self,
    iterable: Iterable | None,
    total: int | None,
    desc: str,
    *,
    unit: str = "it",
    initial: int = 0,
    stream: IO[str] | None = None,
    seconds_between_lines: float = 30.0,
  ):
    self.count = initial
    self.total = total
    self._iterable, self._desc, self._unit, self._initial = iterable, desc, unit, initial
    self._stream = stream or sys.stderr
    self._interval = seconds_between_lines
    self._start = self._last_line = time.monotonic()
    self._metrics: Mapping[str, float] = {}
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm(
        total=total, desc=desc, unit=unit, initial=initial, file=self._stream, dynamic_ncols=True
      )

  def set_total(self, total: int | None) -> None:
    """Changes the expected final count.

    Args:
      total: the count; None if unknown.
    """
    self.total = total
    if self._bar is not None:
      self._bar.total = total

  def update(self, count: int = 1, metrics: Mapping[str, float] | None = None) -> None:
    """Advances the bar.

    Args:
      count: number to add.
      metrics: values to show by name; None keeps those of the last call.
    """
    self.count += count
    if metrics is not None:
      self._metrics = dict(metrics)
    if self._bar is not None:
      if metrics is not None:
        self._bar.set_postfix_str(self._metrics_text(), refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._last_line >= self._interval:
      self._line()

  def close(self) -> None:
    """Closes the bar, or prints the last line."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    elif self._stream is not None:
      self._line()
    self._stream = None

  def _line(self) -> None:
    self._last_line = time.monotonic()
    elapsed = self._last_line - self._start
    rate = (self.count - self._initial) / max(elapsed, 1e-9)
    parts = [f"{self.count}" + (f"/{self.total}" if self.total else "")]
    parts.append(f"{rate:.3g} {self._unit}/s, {tqdm.format_interval(elapsed)} elapsed")
    if self.total and rate and self.count < self.total:
      parts.append(f"{tqdm.format_interval((self.total - self.count) / rate)} left")
    if self._metrics:
      parts.append(self._metrics_text())
    print(f"{self._desc}: {', '.join(parts)}", file=self._stream, flush=True)

  def _metrics_text(self) -> str:
    return " ".join(f"{key}={value:.4g}" for key, value in self._metrics.items())

  def __iter__(self) -> Iterator:
    try:
      for item in self._iterable:
        yield item
        self.update()
    finally:
      self.close()

  def __enter__(self) -> Progress:
    return self

  def __exit__(self, *_) -> None:
    self.close()


def progress(iterable_or_total: Iterable | int | None, desc: str, **options) -> Progress:
  """Makes a `Progress` over an iterable, or one that is updated explicitly.

  Args:
    iterable_or_total: an iterable, the expected final count, or None if that is unknown.
    desc: label, such as `"collecting"`.
    **options: see `Progress`.

  Returns:
    The progress bar.
  """
  if iterable_or_total is None or isinstance(iterable_or_total, int):
    return Progress(None, iterable_or_total, desc, **options)
  total = len(iterable_or_total) if hasattr(iterable_or_total, "__len__") else None
  return Progress(iterable_or_total, total, desc, **options)


class ProgressLogger(Logger):
  """Shows steps and selected metrics in a progress bar.

  Args:
    desc: label of the bar.
    keys: names of the metrics to show.
    **options: see `Progress`.
  """

  def __init__(self, desc: str, keys: Sequence[str] = ("train/loss", "eval/loss"), **options):
    self._desc, self._keys, self._options = desc, tuple(keys), options
    self._shown: dict[str, float] = {}
    self._start = 0
    self._bar: Progress | None = None

  def rewind(self, step):
    """Sets the initial count of the bar. See `Logger.rewind`."""
    self._start = max(0, step)

  def tick(self, step, total=None):
    """Advances the bar to a step. See `Logger.tick`."""
    if self._bar is None:
      self._bar = progress(total, self._desc, initial=self._start, **self._options)
    elif total is not None:
      self._bar.set_total(total)
    self._bar.update(step - self._bar.count)

  def write(self, step, metrics):
    """Shows the selected metrics. See `Logger.write`."""
    self._shown |= {key: metrics[key] for key in self._keys if key in metrics}
    self.tick(step)
    self._bar.update(0, self._shown)

  def close(self):
    """Closes the bar. See `Logger.close`."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None


class Loggers(Logger):
  """Passes every call to several loggers."""

  def __init__(self, loggers: Iterable[Logger]):
    self.loggers = tuple(loggers)

  def write(self, step, metrics):
    """Calls `write` of every logger. See `Logger.write`."""
    for logger in self.loggers:
      logger.write(step, metrics)

  def film(self, step, name, frames, fps=10.0):
    """Calls `film` of every logger. See `Logger.film`."""
    for logger in self.loggers:
      logger.film(step, name, frames, fps)

  def rewind(self, step):
    """Calls `rewind` of every logger. See `Logger.rewind`."""
    for logger in self.loggers:
      logger.rewind(step)

  def tick(self, step, total=None):
    """Calls `tick` of every logger. See `Logger.tick`."""
    for logger in self.loggers:
      logger.tick(step, total)

  def close(self):
    """Calls `close` of every logger. See `Logger.close`."""
    for logger in self.loggers:
      logger.close()


def make_loggers(
  directory: str | os.PathLike,
  *,
  tensorboard: bool = True,
  desc: str | None = None,
  keys: Sequence[str] = ("train/loss", "eval/loss"),
) -> Loggers:
  """Makes the loggers of a run: `metrics.jsonl`, TensorBoard events, and a progress bar.

  Args:
    directory: folder of the run; events are written to its subfolder `tensorboard`.
    tensorboard: whether to write events.
    desc: label of the progress bar; None for no bar.
    keys: names of the metrics to show in the bar.

  Returns:
    The loggers as one.
  """
  directory = user_path(directory)
  loggers: list[Logger] = [JsonlLogger(directory / "metrics.jsonl")]
  if tensorboard:
    loggers.append(TensorBoardLogger(directory / "tensorboard"))
  if desc is not None:
    loggers.append(ProgressLogger(desc, keys))
  return Loggers(loggers)
