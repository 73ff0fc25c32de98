"""The configuration of every kind of learner."""

from __future__ import annotations

import dataclasses

from wm_tf.checks import ConfigError, check_at_least
from wm_tf.learners.actor_critic import ActorCriticConfig
from wm_tf.learners.dream_es import DreamESConfig
from wm_tf.learners.learner import LEARNERS
from wm_tf.learners.policy_gradients.methods import PolicyGradientConfig, PPOConfig
from wm_tf.learners.returns import derive_discount
from wm_tf.registry import unknown
from wm_tf.search.named import check_search, search_names

METHODS = LEARNERS.names()
STRATEGIES = search_names("controller")


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
  """How the controller is trained in the dream.

  Attributes:
    method: the name of a learner. `es` evolves a linear controller. `actor_critic` trains a
      multilayer perceptron by the gradient of dreamed returns. `ppo` (with a KL penalty),
      `ppo_clip` and `reinforce` train it by policy gradients, with TF-Agents. The next five fields
      are for `es`.
    strategy: the name of a search: `cma_es`, `sep_cma_es`, `open_es` or `cem`.
    population_size: N, candidates per generation.
    num_generations: number of generations in an iteration.
    initial_scale: standard deviation of the first generation.
    hidden_components: number of whitened principal components of the hidden state that are inputs
      of the controller; -1 for the whole hidden state.
    start_window: dreams start at states where one of the last `start_window` decisions was
      rewarded, or at the start of an episode; 0 for any state.
    start_anywhere: share of the dreams that start at any state despite `start_window`, so that the
      controller learns to recover.
    num_starts: number of real states that dreams start from.
    dream: how evolution scores candidates.
    actor_critic: settings of `actor_critic`.
    ppo: settings of `ppo` and `ppo_clip`.
    reinforce: settings of `reinforce`.
  """

  method: str = "es"
  strategy: str = "cma_es"
  population_size: int = 48
  num_generations: int = 60
  initial_scale: float = 0.1
  hidden_components: int = 16
  start_window: int = 0
  start_anywhere: float = 0.0
  num_starts: int = 4096
  dream: DreamESConfig = DreamESConfig()
  actor_critic: ActorCriticConfig = ActorCriticConfig()
  ppo: PPOConfig = PPOConfig()
  reinforce: PolicyGradientConfig = PolicyGradientConfig()

  def __post_init__(self):
    if self.method not in LEARNERS:
      raise ConfigError(f"controller.method: {unknown('learner', self.method, LEARNERS.names())}")
    check_search(self, "strategy", "controller")
    check_at_least(2, self, "population_size")
    check_at_least(1, self, "num_generations", "num_starts")
    check_at_least(0, self, "initial_scale", "start_window", "start_anywhere")
    check_at_least(-1, self, "hidden_components")

  def derived(self, num_decisions: int) -> ControllerConfig:
    """Returns the settings with the discounts that None stands for.

    Args:
      num_decisions: decisions in the longest episode.
    """
    changed = {}
    for name in ("actor_critic", "ppo", "reinforce"):
      group = getattr(self, name)
      if group.discount is None:
        changed[name] = dataclasses.replace(group, discount=derive_discount(num_decisions))
    return dataclasses.replace(self, **changed)
