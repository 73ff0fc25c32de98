"""Targets of losses that several models in PyTorch share."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def two_hot(value: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
  """Returns weights of the two bins around each value, `float32[..., bins]`."""
  value = value.clamp(bins[0], bins[-1])
  above = torch.searchsorted(bins, value.contiguous(), right=True)
  above = above.clamp(1, len(bins) - 1)
  low, high = bins[above - 1], bins[above]
  weight = ((value - low) / (high - low))[..., None]

  def hot(index):
    return F.one_hot(index, len(bins)).float()

  return (1.0 - weight) * hot(above - 1) + weight * hot(above)
