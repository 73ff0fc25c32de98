"""Loggers of metrics: JSONL, TensorBoard, and progress bars."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import tensorflow as tf
from tqdm import tqdm

from wm_tf.files import DamagedFileError, atomic_open, user_path


class Logger:
  """Receives metrics; subclasses need only define `write`.

  Steps are in the loop's own unit: batches, generations, episodes.
  """

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records metrics, such as `train/nll` and `eval/nll`, at a step."""

  def rewind(self, step: int) -> None:
    """Drops the metrics of later steps: the run continues from `step` and writes them again.

    A negative `step` drops everything, also from a damaged file: the run starts over.
    """

  def tick(self, step: int, total: int | None = None) -> None:
    """Reports that `step` of `total` is reached, without metrics. Cheap; called at each step."""

  def close(self) -> None:
    """Flushes and releases files."""


class JsonlLogger(Logger):
  """Writes one JSON object a line: `{"step": 100, "train/nll": 1.25}`; NaN becomes `null`."""

  def __init__(self, path: str | os.PathLike):
    self.path = user_path(path)

  def write(self, step, metrics):
    finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with open(self.path, "a", encoding="utf-8") as file:
      file.write(json.dumps({"step": step} | finite) + "\n")

  def rewind(self, step):
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
  """Reads the lines of a `JsonlLogger`; a last line that a kill cut short is left out.

  Returns:
    One dict for each line.

  Raises:
    DamagedFileError: if a line is not one of a `JsonlLogger`.
  """
  lines = user_path(path).read_bytes().split(b"\n")
  parsed = []
  for i, line in enumerate(lines[:-1]):  # After the last newline comes nothing or a cut line.
    try:
      parsed.append(json.loads(line))
      if not isinstance(parsed[-1], dict) or type(parsed[-1].get("step")) is not int:
        raise ValueError("no step")
    except (ValueError, RecursionError) as error:
      raise DamagedFileError(path, f"line {i + 1} is not of a log: {error}", _REMEDY) from error
  return parsed


def read_history(path: str | os.PathLike) -> str | None:
  """Returns the text of a `JsonlLogger`'s file, for a checkpoint; None if there is no file."""
  path = user_path(path)
  return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def restore_history(path: str | os.PathLike, history: str | None) -> None:
  """Restores a `JsonlLogger`'s file to its text in a checkpoint; None leaves it as it is."""
  if history is not None and read_history(path) != history:
    with atomic_open(path) as file:
      file.write(history.encode())


class TensorBoardLogger(Logger):
  """Writes scalars for TensorBoard. A resumed run writes equal values at equal steps again."""

  def __init__(self, directory: str | os.PathLike):
    self._writer = tf.summary.create_file_writer(str(user_path(directory)))

  def write(self, step, metrics):
    with self._writer.as_default():
      for key, value in metrics.items():
        tf.summary.scalar(key, value, step=step)
    self._writer.flush()

  def close(self):
    self._writer.close()


class Progress:
  """A progress bar with rate and remaining time; plain lines if stderr is not a terminal.

  Use as an iterable (`for x in progress(xs, "reading")`), or count by hand:

      with progress(1000, "steps") as bar:
        bar.update(1, {"loss": 0.3})
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
    """Changes the expected total."""
    self.total = total
    if self._bar is not None:
      self._bar.total = total

  def update(self, count: int = 1, metrics: Mapping[str, float] | None = None) -> None:
    """Advances by `count` and shows `metrics` until the next ones."""
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
  """Returns a `Progress` over an iterable, or one that is advanced by hand.

  Args:
    iterable_or_total: an iterable, the expected total, or None if that is unknown.
    desc: label, such as `"collecting"`.
    **options: see `Progress`.
  """
  if iterable_or_total is None or isinstance(iterable_or_total, int):
    return Progress(None, iterable_or_total, desc, **options)
  total = len(iterable_or_total) if hasattr(iterable_or_total, "__len__") else None
  return Progress(iterable_or_total, total, desc, **options)


class ProgressLogger(Logger):
  """Shows steps and chosen metrics as a `Progress`."""

  def __init__(self, desc: str, keys: Sequence[str] = ("train/loss", "eval/loss"), **options):
    self._desc, self._keys, self._options = desc, tuple(keys), options
    self._shown: dict[str, float] = {}
    self._start = 0
    self._bar: Progress | None = None

  def rewind(self, step):
    self._start = max(0, step)

  def tick(self, step, total=None):
    if self._bar is None:
      self._bar = progress(total, self._desc, initial=self._start, **self._options)
    elif total is not None:
      self._bar.set_total(total)
    self._bar.update(step - self._bar.count)

  def write(self, step, metrics):
    self._shown |= {key: metrics[key] for key in self._keys if key in metrics}
    self.tick(step)
    self._bar.update(0, self._shown)

  def close(self):
    if self._bar is not None:
      self._bar.close()
      self._bar = None


class Loggers(Logger):
  """Passes every call to several loggers."""

  def __init__(self, loggers: Iterable[Logger]):
    self.loggers = tuple(loggers)

  def write(self, step, metrics):
    for logger in self.loggers:
      logger.write(step, metrics)

  def rewind(self, step):
    for logger in self.loggers:
      logger.rewind(step)

  def tick(self, step, total=None):
    for logger in self.loggers:
      logger.tick(step, total)

  def close(self):
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
    directory: the run's folder; events go to its `tensorboard` folder.
    tensorboard: whether to write events.
    desc: name of the progress bar; None for no bar.
    keys: metrics to show in the bar.
  """
  directory = user_path(directory)
  loggers: list[Logger] = [JsonlLogger(directory / "metrics.jsonl")]
  if tensorboard:
    loggers.append(TensorBoardLogger(directory / "tensorboard"))
  if desc is not None:
    loggers.append(ProgressLogger(desc, keys))
  return Loggers(loggers)
