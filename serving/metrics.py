"""Counters and histograms under the official server's names, as a page for Prometheus.

This module does not use prometheus_client, which appends `_total` to every counter's name: existing
dashboards and alerts ask for `:tensorflow:serving:request_count` without it.
"""

from __future__ import annotations

import bisect
import re
import threading

PATH = "/monitoring/prometheus/metrics"
# 33 buckets from 10 microseconds to 20 minutes, each 1.8 times as wide as the one before it.
_LATENCY_BUCKETS = [10 * 1.8**i for i in range(33)]


class Metrics:
  """A server's counters and histograms. Threads may share it.

  Label values must come from the server (its models and methods), never from a client, because
  every combination of labels is kept forever.
  """

  def __init__(self):
    serving = "/tensorflow/serving/"
    self.request_count = _Counter(serving + "request_count", ("model_name", "status"))
    self.request_latency = _Histogram(
      serving + "request_latency", ("model_name", "API", "entrypoint")
    )
    self.runtime_latency = _Histogram(serving + "runtime_latency", ("model_name", "API", "runtime"))
    self.load_count = _Counter(
      "/tensorflow/cc/saved_model/load_attempt_count", ("model_path", "status")
    )
    self.load_latency = _Counter("/tensorflow/cc/saved_model/load_latency", ("model_path",))
    self._all = (
      self.load_count,
      self.load_latency,
      self.request_count,
      self.request_latency,
      self.runtime_latency,
    )

  def page(self) -> str:
    """Returns the text that Prometheus scrapes."""
    lines = []
    for metric in self._all:
      lines += metric.lines()
    return "\n".join(lines) + "\n"

  def value(self, name: str) -> int:
    """Returns the first value of a counter; 0 if there is none.

    Args:
      name: the counter's official name, with slashes.
    """
    for metric in self._all:
      if metric.name == name and isinstance(metric, _Counter):
        return metric.first()
    return 0


class _Metric:
  def __init__(self, name: str, labels: tuple[str, ...]):
    self.name = name
    self._page_name = re.sub("[^a-zA-Z0-9_]", ":", name)
    self._labels = labels
    self._lock = threading.Lock()
    self._cells = {}

  def _text(self, values: tuple[str, ...]) -> str:
    def escape(value):
      return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(
      f'{label}="{escape(value)}"' for label, value in zip(self._labels, values, strict=True)
    )


class _Counter(_Metric):
  def add(self, *labels: str, amount: int = 1) -> None:
    """Increases the value for these labels."""
    with self._lock:
      self._cells[labels] = self._cells.get(labels, 0) + amount

  def first(self) -> int:
    with self._lock:
      return next(iter(self._cells.values()), 0)

  def lines(self) -> list[str]:
    with self._lock:
      cells = sorted(self._cells.items())
    name = self._page_name
    return [f"# TYPE {name} counter"] + [f"{name}{{{self._text(k)}}} {v}" for k, v in cells]


class _Histogram(_Metric):
  """A histogram of durations in microseconds."""

  def observe(self, seconds: float, *labels: str) -> None:
    """Adds a duration to the histogram for these labels."""
    microseconds = seconds * 1e6
    bucket = bisect.bisect_right(_LATENCY_BUCKETS, microseconds)
    with self._lock:
      cell = self._cells.get(labels)
      if cell is None:
        cell = self._cells[labels] = [[0] * (len(_LATENCY_BUCKETS) + 1), 0.0]
      cell[0][bucket] += 1
      cell[1] += microseconds

  def lines(self) -> list[str]:
    with self._lock:
      cells = sorted((k, (list(counts), total)) for k, (counts, total) in self._cells.items())
    name = self._page_name
    lines = [f"# TYPE {name} histogram"]
    limits = [f"{limit:g}" for limit in _LATENCY_BUCKETS] + ["+Inf"]
    for key, (counts, total) in cells:
      labels, count = self._text(key), 0
      for limit, number in zip(limits, counts, strict=True):
        count += number
        lines.append(f'{name}_bucket{{{labels},le="{limit}"}} {count}')
      lines.append(f"{name}_sum{{{labels}}} {total:g}")
      lines.append(f"{name}_count{{{labels}}} {count}")
    return lines
