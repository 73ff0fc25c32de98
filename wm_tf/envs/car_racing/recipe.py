"""What was tuned for CarRacing: overrides of the configuration for each preset.

Everything that the generic configuration does for any environment is left to it. The measurements
behind these numbers are in `docs/experiments.md`.
"""

from __future__ import annotations

# The scripted driver plays most of the first episodes, in variants `(noise, options)`. With too
# little noise the model learns that driving goes well whatever the action is; without high speeds
# dreams are won by full throttle.
_DRIVERS = (
  (0.3, (("target_speed", 45.0),)),
  (0.15, (("target_speed", 45.0),)),
  (0.25, (("target_speed", 60.0),)),
  (0.12, (("target_speed", 60.0),)),
  (0.1, (("target_speed", 80.0),)),
  (0.2, (("target_speed", 100.0),)),
  (0.2, (("target_speed", 140.0),)),
)

_EVERY_PRESET = (
  "collect.uniform=0.0",
  "collect.held=0.15",
  "collect.brownian=0.25",
  "collect.heuristic=0.6",
  f"collect.heuristics={_DRIVERS}",
  # Half of the training episodes begin elsewhere on the track; a car that stands still is stopped.
  "collect.random_start=0.5",
  "collect.stop_after_idle_decisions=40",
  # A new tile is worth about 3.5, a frame costs 0.1, leaving the field costs 100.
  "dynamics.reward_bins=(-100.4, -0.4, 3.1, 6.6, 10.1, 13.6)",
  # Dreams begin where a tile was reached within the last 8 decisions, or (70%) anywhere.
  "controller.start_window=8",
  "controller.start_anywhere=0.7",
  "controller.actor_critic.reward_scale=0.1",
  "controller.actor_critic.target_rate=0.02",
  "controller.ppo.reward_scale=0.1",
  "controller.reinforce.reward_scale=0.1",
  "controller.reinforce.target_rate=0.02",
)

_WIDE_DREAMS = (
  "controller.actor_critic.batch_size=384",
  "controller.actor_critic.horizon=20",
)

# The gauges of the panel, in the lowest eight rows, are small and show the car's speed.
_PANEL = "vae.row_weights=((0, 56, 2.0), (56, 64, 8.0))"

RECIPE: dict[str, tuple[str, ...]] = {
  "default": (*_EVERY_PRESET, *_WIDE_DREAMS, "controller.actor_critic.num_updates=250"),
  "quickstart": (
    *_EVERY_PRESET,
    *_WIDE_DREAMS,
    _PANEL,
    "controller.actor_critic.num_updates=250",
    "controller.actor_critic.num_further_updates=150",
  ),
  "full": (*_EVERY_PRESET, *_WIDE_DREAMS, _PANEL, "controller.actor_critic.num_updates=300"),
  "debug": _EVERY_PRESET,
}
