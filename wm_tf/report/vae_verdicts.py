"""Verdicts on the reconstructions of held-out observations.

Errors of images are judged by the published figures of the run's environment, if `published.py` has
some; all other errors are judged by the share of the variance that a reconstruction explains.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from wm_tf.report.formatting import number
from wm_tf.report.judgement import (
  GOOD,
  INFO,
  POOR,
  USABLE,
  Check,
  figure_of,
  judge_high,
  judge_low,
  make_check,
  section_of,
)
from wm_tf.report.published import ModelReferences

# (good, usable) limits. A figure beyond the second is poor; so is one that is not finite.
_IMAGE_EXPLAINED = (0.8, 0.5)  # Share of the variance of images that a reconstruction explains.
_VECTOR_EXPLAINED = (0.95, 0.75)
_IMAGE_VALUES = 64 * 64 * 3  # The number of values of an image in published squared errors.


def vae_checks(vae: Mapping[str, Any], usual: ModelReferences) -> list[Check]:
  """Judges a VAE's reconstructions of held-out observations.

  Args:
    vae: `sse` and `sse_mean_image` (squared error per image, and that of the mean image), and
      `image_shape` `[H, W, C]` if the image does not have 64x64x3 values; `parts`, part name to
      `{"kind": "image" | "vector", "error", "baseline"}` (error, and that of the constant mean);
      `active_dimensions`, `latent_size`, `kl`. All are optional.
    usual: the usual figures in the run's environment.

  Returns:
    One check for each part of the observation, the active dimensions and the KL divergence.
  """
  return [*_part_checks(vae, usual, "VAE"), _active_check(vae, usual), _kl_check(vae)]


def reconstruction_checks(section: Mapping[str, Any], usual: ModelReferences) -> list[Check]:
  """Judges what a jointly trained model gives back of observations, in the group "reconstruction".

  Args:
    section: `sse`, `sse_mean_image` and `parts`; see `vae_checks`.
    usual: what is known of the environment.

  Returns:
    One check for each part of the observation.
  """
  return _part_checks(section, usual, "reconstruction")


def _part_checks(section: Mapping[str, Any], usual: ModelReferences, group: str) -> list[Check]:
  parts = section_of(section, "parts")
  found = []
  images = [name for name in parts if section_of(parts, name).get("kind") == "image"]
  skipped = None
  if "sse" in section or not parts:
    found.append(_image_check(section, usual))
    skipped = images[0] if len(images) == 1 else None  # `sse` is the error of the same image.
  found += [_part_check(name, section_of(parts, name)) for name in parts if name != skipped]
  return [check._replace(group=group) for check in found]


def _image_check(vae: Mapping[str, Any], usual: ModelReferences) -> Check:
  sse, mean_image = figure_of(vae, "sse"), figure_of(vae, "sse_mean_image")
  text = None if sse is None else number(sse, 1)
  explained = ""
  if sse is not None and mean_image:
    text += f" (mean image {number(mean_image, 1)})"
    explained = f" It removes {100 * (1 - sse / mean_image):.0f}% of the mean image's error."
  name = "reconstruction error, SSE per image, held-out frames"
  if usual.sse_limits is None:
    reference = _explained_reference(_IMAGE_EXPLAINED, "mean image's error")
    judge = functools.partial(_judge_explained, baseline=mean_image, limits=_IMAGE_EXPLAINED)
  else:
    shape = vae.get("image_shape")
    scale = math.prod(shape) / _IMAGE_VALUES if isinstance(shape, list | tuple) else 1.0
    reference = usual.sse
    judge = functools.partial(
      _judge_sse, baseline=mean_image, limits=tuple(scale * limit for limit in usual.sse_limits)
    )
  words = {
    GOOD: "Reconstructions keep most of the variation of the images." + explained,
    USABLE: "Reconstructions are coarse: small details may be lost." + explained,
    POOR: "The encoder has not learned: train longer, or look at the data." + explained,
    INFO: "The mean image's error is not known, so there is no baseline.",
  }
  return make_check("VAE", name, reference, sse, judge, words, text)


def _judge_sse(value: float, baseline: float | None, limits: tuple[float, float]) -> str:
  """Judges a squared error by absolute limits; half of the mean image's error is always usable."""
  verdict = judge_low(value, limits)
  if baseline and not value < baseline:
    return POOR
  halves = bool(baseline) and value <= (1.0 - _IMAGE_EXPLAINED[1]) * baseline
  return USABLE if verdict == POOR and halves else verdict


def _judge_explained(value: float, baseline: float | None, limits: tuple[float, float]) -> str:
  """Judges an error by the share of the variance (the constant mean's error) that it explains."""
  if not math.isfinite(value):
    return POOR
  return judge_high(1.0 - value / baseline, limits) if baseline else INFO


def _explained_reference(limits: tuple[float, float], what: str) -> str:
  return (
    f"good if it removes {100 * limits[0]:.0f}% of the {what}, poor below {100 * limits[1]:.0f}%"
  )


def _part_check(name: str, part: Mapping[str, Any]) -> Check:
  """Judges the reconstruction of one named part of an observation."""
  image = part.get("kind") == "image"
  limits = _IMAGE_EXPLAINED if image else _VECTOR_EXPLAINED
  error, baseline = figure_of(part, "error"), figure_of(part, "baseline")
  text, explained = None, ""
  if error is not None:
    text = _significant(error)
    if baseline:
      share = 1.0 - error / baseline
      text = f"{_percent(share)} of the variance (error {text}, mean {_significant(baseline)})"
      if math.isfinite(share):
        explained = f" It explains {_percent(share)} of the variance."
        if share < 0:
          explained = " It is worse than the constant mean."
  words = {
    GOOD: "Reconstructions keep most of the variation." + explained,
    USABLE: "Reconstructions lose part of the variation." + explained,
    POOR: "The encoder has not learned this part: train longer, or look at the data." + explained,
    INFO: "It does not vary in the held-out data, so there is no variance to explain.",
  }
  judge = functools.partial(_judge_explained, baseline=baseline, limits=limits)
  title = f"reconstruction of {name or 'the observation'} ({'image' if image else 'vector'})"
  reference = _explained_reference(limits, "constant mean's error")
  return make_check("VAE", title, reference, error, judge, words, text)


def _active_check(vae: Mapping[str, Any], usual: ModelReferences) -> Check:
  active, size = figure_of(vae, "active_dimensions"), figure_of(vae, "latent_size")
  text = None
  if active is not None:
    text = number(active) + ("" if size is None else f" of {number(size)}")

  def judge(value: float) -> str:
    if usual.active_limits is not None:
      return judge_high(value, usual.active_limits)
    return INFO if value >= 1 else POOR

  words = {
    GOOD: "Most of the latent is used.",
    USABLE: "Few dimensions are active: a smaller beta or more free nats may help.",
    POOR: "The posterior has collapsed: lower beta or raise the free nats.",
    INFO: "The number that is needed depends on the observations: see the reconstruction.",
  }
  reference = usual.active or "at least as many as the observations have degrees of freedom"
  return make_check("VAE", "active latent dimensions", reference, active, judge, words, text)


def _kl_check(vae: Mapping[str, Any]) -> Check:
  def judge(value: float) -> str:
    return INFO if math.isfinite(value) else POOR

  return make_check(
    "VAE",
    "KL to the prior, nats per observation",
    "above the free nats; a trade-off with the reconstruction error",
    figure_of(vae, "kl"),
    judge,
    {INFO: "No value is good or poor by itself."},
    places=1,
  )


def _percent(share: float) -> str:
  """Formats a share in per cent, with decimals if it is close to 100%."""
  return f"{100 * share:.{0 if share < 0.99 else 2}f}%"


def _significant(value: float) -> str:
  """Formats a number of any magnitude with three significant digits."""
  return f"{value:.3g}"
