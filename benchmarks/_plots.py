"""Draws what `make bench` wrote.

python -m benchmarks._plots --results=docs/results/bench [--images=docs/images]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_OURS, _OTHER, _INK = "#0b6fb0", "#b9bec6", "#23262b"


def _races(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Every race by its title."""
  races = {}
  for name, title in (("vae", "VAE training"), ("dynamics", "MDN-RNN training")):
    if name in results:
      races[title] = results[name]
  for size in ("batch 1", "batch 64", "64 x 16"):
    if size in results.get("dream", {}):
      races[f"Dreaming, {size}"] = results["dream"][size]
  for name in ("vectors", "pixels"):
    if name in results.get("dreamer", {}):
      races[f"Dreamer's world model, {name}"] = results["dreamer"][name]
  if "generation" in results:
    races["A generation of evolution"] = results["generation"]
  if "collection" in results:
    races["Collection"] = results["collection"]
  return races


def speeds(results: dict[str, Any]) -> Figure:
  """A panel for each race: rates, with quartiles as whiskers."""
  races = _races(results)
  heights = [len(race["contenders"]) for race in races.values()]
  figure = Figure(figsize=(7.2, 0.55 * len(races) + 0.24 * sum(heights)), layout="constrained")
  panels = figure.subplots(
    len(races), 1, squeeze=False, gridspec_kw={"height_ratios": [h + 0.6 for h in heights]}
  )
  for panel, (title, race) in zip(panels[:, 0], races.items(), strict=True):
    rows = race["contenders"]
    medians = [row["median"] for row in rows.values()]
    whiskers = [
      [row["median"] - row["q25"] for row in rows.values()],
      [row["q75"] - row["median"] for row in rows.values()],
    ]
    colors = [_OURS if name.startswith("ours") else _OTHER for name in rows]
    places = range(len(rows))
    panel.barh(places, medians, xerr=whiskers, color=colors, height=0.7, ecolor=_INK)
    panel.set_yticks(places, list(rows), fontsize=8)
    panel.invert_yaxis()
    panel.set_title(f"{title}, {race['unit']}", fontsize=9, loc="left", fontweight="bold")
    panel.set_xlim(0, 1.18 * max(row["q75"] for row in rows.values()))
    panel.tick_params(axis="x", labelsize=7)
    panel.xaxis.set_major_formatter("{x:,.0f}" if max(medians) >= 100 else "{x:g}")
    panel.spines[["top", "right", "left"]].set_visible(False)
    for place, row in zip(places, rows.values(), strict=True):
      digits = 0 if row["median"] >= 100 else 1
      text = f"  {row['median']:,.{digits}f}"
      panel.text(row["q75"], place, text, va="center", fontsize=7.5)
  return figure


def scaling(results: dict[str, Any]) -> Figure:
  """Seconds over size, both logarithmic, with the slope."""
  curves = {k: v for k, v in results["scaling"].items() if isinstance(v, dict) and "slope" in v}
  columns = 3
  rows = -(-len(curves) // columns)
  figure = Figure(figsize=(7.6, 2.2 * rows), layout="constrained")
  panels = figure.subplots(rows, columns, squeeze=False).flat
  for panel, (title, curve) in zip(panels, curves.items(), strict=False):
    panel.loglog(curve["x"], curve["seconds"], "o-", color=_OURS, markersize=3.5, linewidth=1.2)
    panel.set_title(f"{title}\nslope {curve['slope']:.2f}", fontsize=8)
    panel.set_xticks(curve["x"], [str(x) for x in curve["x"]])
    panel.set_yticks(curve["seconds"], [f"{seconds:.2g}" for seconds in curve["seconds"]])
    panel.minorticks_off()
    panel.tick_params(labelsize=7)
    panel.set_ylabel("seconds", fontsize=7)
    panel.grid(True, linewidth=0.3)
  for panel in list(figure.axes)[len(curves) :]:
    panel.set_visible(False)
  return figure


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--results", type=Path, required=True, help="folder with the JSON files")
  parser.add_argument("--images", type=Path, help="folder for the plots; default: the same")
  options = parser.parse_args()
  results = {path.stem: json.loads(path.read_text()) for path in options.results.glob("*.json")}
  images = options.images or options.results
  images.mkdir(parents=True, exist_ok=True)
  if _races(results):
    speeds(results).savefig(images / "bench_speed.png", dpi=150)
  if "scaling" in results:
    scaling(results).savefig(images / "bench_scaling.png", dpi=150)


if __name__ == "__main__":
  main()
