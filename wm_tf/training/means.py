"""Means of metrics over the updates and episodes between two rows."""

from __future__ import annotations

from typing import Any

import numpy as np


class Means:
  """Means of metrics, each over the values that were added."""

  def __init__(self):
    """Makes means of nothing."""
    self._values: dict[str, list[float]] = {}

  def add(self, metrics: dict[str, Any]) -> None:
    """Adds a value of each metric.

    Args:
      metrics: scalars by name.
    """
    for name, value in metrics.items():
      self._values.setdefault(name, []).append(float(value))

  def take(self) -> dict[str, float]:
    """Returns the means since the last call."""
    means = {name: float(np.mean(values)) for name, values in self._values.items()}
    self._values = {}
    return means
