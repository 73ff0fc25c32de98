"""What a VAE has learned after equal epochs, against the same architecture in PyTorch.

    python -m benchmarks.vae_quality [--rounds=3] [--epochs=8] [--output=vae_quality.json]

Real frames are collected first; the last two episodes are held out. From the same weights, on the
same batches in the same order, each trains in float32 with noise of its own; after every epoch the
squared error of a held-out frame, summed over it, is measured through the posterior mean. A round
has other weights, another order and other noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _race as race_lib
from benchmarks.pipeline import collect
from wm_tf.data import rollouts

_BATCH, _HELD_OUT = 100, 2


def _frames(folder: Path, num_episodes: int) -> dict[str, np.ndarray]:
  collect(folder, num_episodes)
  episodes = [episode.observation for episode, _ in rollouts.read_episodes(folder)]
  return {
    "train": np.concatenate(episodes[:-_HELD_OUT]),
    "held_out": np.concatenate(episodes[-_HELD_OUT:])[:500],
  }


def main() -> None:
  made = race_lib.parser(__doc__, rounds=3)
  made.add_argument("--epochs", type=int, default=8)
  made.add_argument("--episodes", type=int, default=12)
  options = made.parse_args()
  found: dict[str, list] = {}
  with tempfile.TemporaryDirectory() as directory, race_lib.Workers() as workers:
    data = Path(directory) / "frames.npz"
    frames = _frames(Path(directory) / "data", options.episodes)
    np.savez(data, **frames)
    for seed in range(options.rounds):
      for label, framework in (("ours", "tensorflow"), ("PyTorch", "torch")):
        contender = workers.make(
          label,
          framework,
          "vae_epochs",
          data=str(data),
          batch=_BATCH,
          epochs=options.epochs,
          seed=seed,
        )
        if contender is not None:
          found.setdefault(label, []).append(contender.check["squared_error"])
  numbers = ", ".join(f"{len(x)} {name.replace('_', '-')}" for name, x in frames.items())
  print(f"\nSquared error of a held-out frame after each epoch ({numbers} frames);")
  print(f"mean and standard deviation of {options.rounds} rounds:")
  results = {
    "frames": {name: len(x) for name, x in frames.items()},
    "seeds": [*range(options.rounds)],
  }
  for label, errors in found.items():
    mean, std = np.mean(errors, axis=0), np.std(errors, axis=0, ddof=min(1, len(errors) - 1))
    print(
      f"  {label:8}" + "".join(f"  {m:6.2f} +- {s:4.2f}" for m, s in zip(mean, std, strict=True))
    )
    results[label] = {"squared_error": errors, "mean": mean.tolist(), "std": std.tolist()}
  race_lib.write(options.output, "python -m benchmarks.vae_quality", results)


if __name__ == "__main__":
  main()
