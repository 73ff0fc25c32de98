"""Frames per second of CarRacing on one core: ours against gymnasium's as it comes.

Both drive the same seeds with the same actions and action repeat, in alternation, in CPU time, so
that a busy machine slows both and counts little. Ours also resizes to 64x64. Run as
`python -m benchmarks.environment`.
"""

from __future__ import annotations

import statistics
import time

import gymnasium as gym
import numpy as np

from benchmarks import _race as race_lib
from wm_tf.envs import make_env


def _actions(seed: int, num_decisions: int) -> np.ndarray:
  """`float32[num_decisions, 3]`: half gas, with steering that wanders slowly."""
  steer = np.cumsum(np.random.default_rng(seed).normal(0, 0.1, num_decisions))
  pedals = np.tile([0.5, 0.0], (num_decisions, 1))
  return np.column_stack([np.clip(steer, -0.5, 0.5), pedals]).astype(np.float32)


def _ours(env, seed: int, actions: np.ndarray) -> tuple[int, float]:
  """Frames and seconds of one drive, without the reset."""
  _, info = env.reset(seed=seed)
  frames, start = info["frames"], time.process_time()
  for action in actions:
    *_, terminated, truncated, info = env.step(action)
    if terminated or truncated:
      break
  return info["frames"] - frames, time.process_time() - start


def _theirs(env, seed: int, actions: np.ndarray, action_repeat: int) -> tuple[int, float]:
  env.reset(seed=seed)
  frames, start = 0, time.process_time()
  for action in np.repeat(actions, action_repeat, axis=0):
    *_, terminated, truncated, _ = env.step(action)
    frames += 1
    if terminated or truncated:
      break
  return frames, time.process_time() - start


def main() -> None:
  parser = race_lib.parser(__doc__, rounds=8)
  parser.add_argument("--decisions", type=int, default=60, help="decisions in a drive")
  parser.add_argument("--action_repeat", type=int, default=4, help="frames per decision")
  flags = parser.parse_args()

  ours = make_env("car_racing_3d", action_repeat=flags.action_repeat)
  theirs = gym.make("CarRacing-v3")
  rates = {"ours": [], "gymnasium": []}
  for seed in range(flags.rounds):
    actions = _actions(seed, flags.decisions)
    frames, seconds = _ours(ours, seed, actions)
    rates["ours"].append(frames / seconds)
    frames, seconds = _theirs(theirs, seed, actions, flags.action_repeat)
    rates["gymnasium"].append(frames / seconds)

  print(f"CarRacing-v3, frames per CPU second of one core, action repeat {flags.action_repeat}")
  for name, values in rates.items():
    spread = f"{min(values):.0f} to {max(values):.0f}"
    print(f"  {name:10s} {statistics.median(values):7.0f}  ({spread} over {len(values)} drives)")
  ratios = np.divide(rates["ours"], rates["gymnasium"])
  print(f"  ratio      {np.median(ratios):7.1f}")
  found = {name: race_lib.quartiles(values) for name, values in rates.items()}
  found["gymnasium"]["ours_is_times"] = race_lib.quartiles(ratios)
  found = {"unit": "frames per CPU-second of one core", "contenders": found}
  race_lib.write(flags.output, "python -m benchmarks.environment", found)


if __name__ == "__main__":
  main()
