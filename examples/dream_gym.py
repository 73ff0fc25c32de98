"""Trains stable-baselines3's PPO inside a learned world model, then plays it there.

It brings PyTorch and is not one of our requirements: `pip install stable-baselines3`.

    python -m examples.dream_gym --workdir=runs/quickstart --steps=20000
"""

import argparse

import gymnasium
import numpy as np
from stable_baselines3 import PPO


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", default="runs/quickstart", help="folder of a trained run")
  parser.add_argument("--steps", type=int, default=20000, help="decisions to learn from")
  parser.add_argument("--horizon", type=int, default=60, help="decisions in each dream")
  parser.add_argument("--penalty", type=float, default=0.0, help="of an ensemble's disagreement")
  args = parser.parse_args()
  env = gymnasium.make(
    "wm_tf:wm_tf/Dream-v0",  # Imports wm_tf, which registers it.
    workdir=args.workdir,
    horizon=args.horizon,
    disagreement_penalty=args.penalty,
    render_mode="rgb_array",
  )
  model = PPO("MlpPolicy", env, n_steps=1024, batch_size=256, verbose=1)
  model.learn(args.steps)

  returns = []
  for seed in range(16):
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
      action, _ = model.predict(observation, deterministic=True)
      observation, reward, terminated, truncated, _ = env.step(action)
      total, over = total + float(reward), terminated or truncated
    returns.append(total)
  print(f"Return of {len(returns)} dreams: {np.mean(returns):.1f} ± {np.std(returns):.1f}")


if __name__ == "__main__":
  main()
