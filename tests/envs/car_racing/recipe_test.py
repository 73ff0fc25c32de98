"""CarRacing's recipe: overrides that exist, and the numbers that its results were made with."""

import pytest

from wm_tf.config import make_config


@pytest.mark.parametrize("preset", ["debug", "default", "full", "quickstart"])
@pytest.mark.parametrize("name", ["car_racing", "car_racing_3d"])
def test_with_the_recipe_every_preset_is_what_the_results_were_made_with(name, preset):
  config = make_config(preset, environment=name)
  collect = config.collect
  assert (collect.uniform, collect.held, collect.brownian) == (0.0, 0.15, 0.25)
  assert collect.heuristic == 0.6 and len(collect.heuristics) == 7
  assert collect.heuristics[4] == (0.1, (("target_speed", 80.0),))
  assert (collect.random_start, collect.stop_after_idle_decisions) == (0.5, 40)
  assert config.dynamics.reward_bins == (-100.4, -0.4, 3.1, 6.6, 10.1, 13.6, 17.1, 20.6, 24.1)
  assert (config.controller.start_window, config.controller.start_anywhere) == (8, 0.7)
  weights = ((0, 56, 2.0), (56, 64, 8.0)) if preset in ("quickstart", "full") else ()
  assert config.vae.row_weights == weights
