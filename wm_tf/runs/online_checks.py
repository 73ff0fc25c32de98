"""Checks of the settings of online training, without what the training itself needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wm_tf.checks import ConfigError

if TYPE_CHECKING:
  from wm_tf.runs.run import Run


def check_online(run: Run) -> None:
  """Checks that the run's family and learner can be trained online.

  Args:
    run: the run.

  Raises:
    ConfigError: if they cannot; the message has the field and the remedy.
  """
  config, settings = run.config, run.config.online
  if not settings.num_steps:
    return
  wanted = f"online.num_steps={settings.num_steps}"
  if not run.family.trains_online:
    raise ConfigError(
      f"{wanted} needs a jointly trained world model, which family={config.family} is not. Set "
      "family=rssm, or online.num_steps=0."
    )
  if config.controller.method != "actor_critic":
    raise ConfigError(
      f"{wanted} needs controller.method=actor_critic, not {config.controller.method}."
    )
  if config.controller.actor_critic.reward_scale is None:
    raise ConfigError(
      f"{wanted} needs controller.actor_critic.reward_scale, such as 1: there are no rollouts from "
      "which it could be derived."
    )
  distribution = config.controller.actor_critic.action_distribution
  if distribution == "tanh_normal" and not run.spec.action_space.num_choices:
    raise ConfigError(
      f"{wanted} needs a controller that explores by itself. Set "
      "controller.actor_critic.action_distribution=clipped_normal, whose scale is learned."
    )
  shares = settings.num_environments
  if min(settings.prefill, settings.capacity) < 2 * shares * settings.sequence_length:
    raise ConfigError(
      f"online.prefill={settings.prefill} and online.capacity={settings.capacity} must be at least "
      f"{2 * shares * settings.sequence_length}: two sequences of online.sequence_length="
      f"{settings.sequence_length} for each of online.num_environments={shares}."
    )
