"""Settings tuned for CarRacing: overrides of the configuration for each preset.

They contain only what differs from the generic configuration. `docs/experiments.md` has the
measurements behind these numbers.
"""

from __future__ import annotations

# The scripted driver plays most of the first episodes, in variants `(noise, options)`. With too
# little noise the model learns that driving succeeds with any action. Without high speeds full
# throttle wins in dreams.
_DRIVERS = (
  (0.3, (("target_speed", 45.0),)),
  (0.15, (("target_speed", 45.0),)),
  (0.25, (("target_speed", 60.0),)),
  (0.12, (("target_speed", 60.0),)),
  (0.1, (("target_speed", 80.0),)),
  (0.2, (("target_speed", 100.0),)),
  (0.2, (("target_speed", 140.0),)),
)

RECIPE: dict[str, tuple[str, ...]] = {
  "default": (
    "collect.uniform=0.0",
    "collect.held=0.15",
    "collect.brownian=0.25",
    "collect.heuristic=0.6",
    f"collect.heuristics={_DRIVERS}",
    # Half of the training episodes begin on a random tile. Episodes of an idle car are truncated.
    "collect.random_start=0.5",
    "collect.stop_after_idle_decisions=40",
    # A new tile is worth 3 to 4, a frame costs 0.1, leaving the field costs 100. A decision seldom
    # reaches more than three tiles.
    "dynamics.reward_bins=(-100.4, -0.4, 3.1, 6.6, 10.1, 13.6, 17.1, 20.6, 24.1)",
    # Dreams begin at states where a tile was reached within the last 8 decisions, or (70%) at any.
    "controller.start_window=8",
    "controller.start_anywhere=0.7",
    "controller.actor_critic.reward_scale=0.1",
    "controller.ppo.reward_scale=0.1",
    "controller.reinforce.reward_scale=0.1",
    "controller.reinforce.target_rate=0.02",
  ),
  # The gauges in the lowest eight rows are small but show the car's speed, so they weigh more.
  "quickstart": ("vae.row_weights=((0, 56, 2.0), (56, 64, 8.0))",),
}
