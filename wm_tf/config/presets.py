"""Presets by name, and how a configuration is made of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from wm_tf import envs
from wm_tf.checks import ConfigError
from wm_tf.config.experiment import ExperimentConfig, to_dict
from wm_tf.config.overrides import complete, override
from wm_tf.registry import nearest

# The learner of Dreamer V3 (Hafner et al. 2023, arXiv:2301.04104), for presets to include.
DREAMER_LEARNER: tuple[str, ...] = (
  "controller.method=actor_critic",
  *(
    f"controller.actor_critic.{setting}"
    for setting in (
      "actor_gradient=reinforce",
      "action_distribution=clipped_normal",
      "uniform_share=0.01",
      "critic=symexp_twohot",
      "slow_critic=regulariser",
      "target_rate=0.02",
      "return_normalisation=percentiles",
      "reward_scale=1.0",
      "entropy_scale=1e-3",
      "lambda_=0.95",
      "batch_size=128",
      "horizon=15",
      "discount=None",
      "actor_learning_rate=3e-4",
      "critic_learning_rate=3e-4",
      "clip_norm=100.0",
      "warmup_updates=200",
      "cooldown=0.5",
      "normalised_layers=True",
      "replay_scale=0.3",
    )
  ),
)

# Name of each preset, name of the preset that it extends, and overrides of that one's fields.
PRESETS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
  (
    "quickstart",
    "default",
    (
      "num_iterations=5",
      "num_vae_refits=1",
      "vae.encoder_filters=(16, 32, 64, 128)",
      "vae.decoder_filters=(64, 32, 16)",
      "vae_fit.batch_size=50",
      *(
        f"{stage}.{fit}.precision=bfloat16"
        for stage in ("vae_fit", "dynamics_fit")
        for fit in ("first", "refit")
      ),
      "vae_fit.first.learning_rate=1e-3",
      "vae_fit.first.end_learning_rate=1e-4",
      "vae_fit.first.num_epochs=6",
      "vae_fit.refit.learning_rate=5e-4",
      "vae_fit.refit.end_learning_rate=1e-4",
      "vae_fit.refit.steps_per_epoch=400",
      "dynamics_fit.on_policy_repeats=3",
      "dynamics_fit.first.end_learning_rate=1e-4",
      "dynamics_fit.first.num_epochs=120",
      "dynamics_fit.first.clip_norm=10.0",
      "dynamics_fit.refit.learning_rate=5e-4",
      "dynamics_fit.refit.end_learning_rate=1e-4",
      "dynamics_fit.refit.steps_per_epoch=12",
      "dynamics_fit.refit.num_epochs=32",
      "dynamics_fit.refit.clip_norm=10.0",
      "controller.num_generations=100",
      *DREAMER_LEARNER,
      "controller.actor_critic.num_updates=2000",
      "controller.actor_critic.num_further_updates=800",
      # Search near the controller's proposal, with the return averaged over several dreams. A wider
      # search on a single dream selects lucky plans, which drive worse than the proposal.
      "planner.initial_scale=0.15",
      "planner.num_candidates=24",
      "planner.num_elites=4",
      "planner.num_particles=4",
      "planner.num_iterations=2",
      "planner.answer=mean",
      "evaluate.num_planner_episodes=6",
      "evaluate.validation_episodes=12",
    ),
  ),
  (
    "full",
    "quickstart",
    (
      "num_iterations=12",
      "num_vae_refits=2",
      "collect.num_episodes=200",
      "collect.episodes_per_iteration=60",
      "collect.controller_noise=0.15",
      "vae_fit.first.num_epochs=8",
      "vae_fit.refit.steps_per_epoch=1500",
      "dynamics_fit.refit.num_epochs=64",
      "controller.actor_critic.num_further_updates=0",  # Else it drifts: see docs/experiments.md.
      "evaluate.num_episodes=100",
      "evaluate.num_planner_episodes=100",
      "evaluate.validation_episodes=32",
    ),
  ),
  (
    "dreamer",
    "quickstart",
    (
      "family=rssm",
      # Sizes for two processor cores.
      "rssm.deter_size=192",
      "rssm.hidden_size=96",
      "rssm.stoch_size=16",
      "rssm.num_classes=8",
      "rssm.vector_units=(96, 96)",
      "rssm.head_hidden_size=96",
      "controller.actor_critic.actor_hidden_sizes=(96, 96)",
      "controller.actor_critic.critic_hidden_sizes=(96, 96)",
      "collect.heuristic=0.0",
      "collect.held_out=0.05",
      "online.num_steps=20000",
      "online.learning_rate=8e-4",
      "planner.num_candidates=16",
      "planner.num_particles=2",
    ),
  ),
  (
    # As in 2020 (arXiv:1912.01603): Gaussian states, and the gradient through the dynamics.
    "dreamer_v1",
    "dreamer",
    (
      "rssm.stochastic=gaussian",
      "rssm.stoch_size=30",
      "rssm.representation_weight=1.0",
      "rssm.free_nats=3.0",
      *(
        f"controller.actor_critic.{setting}"
        for setting in (
          "actor_gradient=dynamics",
          "action_distribution=truncated_normal",
          "critic=mse",
          "slow_critic=target",
          "return_normalisation=scale",
          "entropy_scale=1e-4",
        )
      ),
    ),
  ),
  (
    # About 12 million parameters: "size12m" of arXiv:2301.04104. For more than two cores.
    "dreamer_large",
    "dreamer",
    (
      "rssm.cell=block_gru",
      "rssm.deter_size=2048",
      "rssm.hidden_size=256",
      "rssm.stoch_size=32",
      "rssm.num_classes=16",
      "rssm.image_filters=32",
      "rssm.image_units=512",
      "rssm.vector_units=(256, 256, 256)",
      "rssm.head_hidden_size=256",
      "controller.actor_critic.actor_hidden_sizes=(256, 256, 256)",
      "controller.actor_critic.critic_hidden_sizes=(256, 256, 256)",
      "controller.actor_critic.batch_size=512",
      "online.num_steps=250000",
      "online.num_environments=4",
      "online.batch_size=16",
      "online.sequence_length=64",
      "online.learning_rate=3e-4",
      "online.capacity=400000",
    ),
  ),
  (
    "debug",
    "default",
    (
      "num_iterations=1",
      "quality_gates=False",  # Models of this size cannot pass.
      "collect.num_episodes=6",
      "collect.episodes_per_iteration=2",
      "collect.num_workers=2",
      "collect.episodes_per_shard=2",
      "collect.held_out=0.34",
      "vae.encoder_filters=(4, 8, 8, 16)",
      "vae.decoder_filters=(8, 8, 4)",
      "vae.latent_size=8",
      "vae_fit.first.num_epochs=1",
      "vae_fit.first.checkpoint_every=3",
      "vae_fit.batch_size=32",
      "dynamics.hidden_size=16",
      "dynamics_fit.first.num_epochs=1",
      "dynamics_fit.first.checkpoint_every=3",
      "dynamics_fit.refit.num_epochs=1",
      "dynamics_fit.batch_size=2",
      "dynamics_fit.sequence_length=16",
      "rssm.deter_size=16",
      "rssm.hidden_size=8",
      "rssm.stoch_size=4",
      "rssm.num_classes=4",
      "rssm.image_filters=4",
      "rssm.image_units=16",
      "rssm.vector_units=(16,)",
      "rssm.head_hidden_size=8",
      "rssm_fit.first.num_epochs=1",
      "rssm_fit.first.checkpoint_every=3",
      "rssm_fit.refit.num_epochs=1",
      "rssm_fit.batch_size=2",
      "rssm_fit.sequence_length=16",
      "controller.population_size=8",
      "controller.num_generations=12",
      "controller.hidden_components=4",
      "controller.num_starts=64",
      "controller.dream.num_rollouts=2",
      "controller.dream.horizon=10",
      "controller.actor_critic.num_updates=12",
      "controller.actor_critic.num_further_updates=11",
      "controller.actor_critic.batch_size=8",
      "controller.actor_critic.horizon=4",
      "controller.actor_critic.actor_hidden_sizes=(8,)",
      "controller.actor_critic.critic_hidden_sizes=(8,)",
      *(
        f"controller.{group}.{setting}"
        for group in ("ppo", "reinforce")
        for setting in (
          "num_updates=12",
          "num_further_updates=11",
          "batch_size=8",
          "horizon=4",
          "actor_hidden_sizes=(8,)",
          "critic_hidden_sizes=(8,)",
        )
      ),
      "planner.num_candidates=8",
      "planner.num_elites=2",
      "planner.horizon=4",
      "planner.num_iterations=2",
      "evaluate.num_episodes=2",
      "evaluate.num_planner_episodes=1",
      "evaluate.validation_episodes=1",
      "finish.population_size=4",
      "finish.num_generations=3",
      "finish.num_seeds=2",
      "finish.validate_every=2",
      "finish.validation_episodes=2",
    ),
  ),
)


def preset_names() -> tuple[str, ...]:
  """Returns the names of all presets."""
  return ("default", *(name for name, _, _ in PRESETS))


def make_config(
  preset: str = "default", overrides: Iterable[str] = (), environment: str | None = None
) -> ExperimentConfig:
  """Makes a configuration of a preset, the recipe of the environment, and overrides.

  A preset has settings for any environment. Settings that were tuned for one environment are in its
  recipe (`wm_tf.envs.recipe`), which is applied after each preset that this one extends.

  Args:
    preset: name of the preset.
    overrides: changes such as `"dynamics.num_mixtures=8"`; applied last, in order.
    environment: a name that `make_env` takes; by default the one in `overrides`, or car_racing.

  Returns:
    The configuration.

  Raises:
    ConfigError: if the preset, the environment or a field is unknown (the message has the nearest
      known one), or a value has the wrong type.
  """
  overrides = list(overrides)
  if preset not in preset_names():
    raise ConfigError(f"Unknown preset {preset!r}; {nearest(preset, preset_names())}")
  named = [text.partition("=")[2].strip() for text in overrides if _is_environment(text)]
  environment = [environment or ExperimentConfig.environment, *named][-1]
  try:
    recipe = envs.recipe(environment)
  except (ValueError, ImportError) as error:
    raise ConfigError(f"environment={environment}: {error}") from error
  bases = {name: (base, changes) for name, base, changes in PRESETS}
  chain = [preset]
  while chain[0] != "default":
    chain.insert(0, bases[chain[0]][0])
  config = dataclasses.replace(ExperimentConfig(), preset=preset, environment=environment)
  for name in chain:
    changes = bases[name][1] if name in bases else ()
    config = override(config, (*changes, *recipe.get(name, ())))
  return override(config, overrides)


def _is_environment(text: str) -> bool:
  return text.partition("=")[0].strip() == "environment"


def completed(values: dict[str, Any]) -> dict[str, Any]:
  """Adds the fields that a configuration of an older version lacks.

  A group that the version did not have, such as that of a later family, had no effect on the run;
  it is added as the run's preset has it now, so that the same command still describes the run.
  Other fields are added with their default values.

  Args:
    values: the result of `to_dict` in that version.

  Returns:
    A nested dict that `from_dict` takes.
  """
  environment, preset = values.get("environment"), values.get("preset")
  try:
    defaults = to_dict(make_config(environment=environment))
    known = preset in preset_names()
    of_preset = to_dict(make_config(preset, environment=environment)) if known else defaults
  except ConfigError:  # The environment is unavailable; the run reports that when it needs it.
    defaults = of_preset = to_dict(ExperimentConfig())
  groups = {name: group for name, group in of_preset.items() if isinstance(group, dict)}
  return complete({**groups, **values}, defaults)
