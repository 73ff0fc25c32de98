"""Model-predictive control: search action sequences in the world model, take the first action."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from wm_tf import actions, rng
from wm_tf.checks import check_choice, check_counts
from wm_tf.core import Nest, Policy
from wm_tf.imagination import imagine_returns, repeat_rows
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic
from wm_tf.search.named import check_search, make_search
from wm_tf.search.strategy import Strategy

ANSWERS = ("best", "mean")


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
  """How a planner searches.

  Attributes:
    optimiser: a search of `wm_tf.search.named`, such as `cem` or `mppi`, or `random_shooting` (CEM
      with one iteration).
    horizon: H, decisions per plan.
    num_candidates: N action sequences per iteration, including the last plan and the proposal.
    num_iterations: iterations of the search per decision.
    num_elites: number of sequences that CEM refits its distribution to.
    initial_scale: standard deviation of the first candidates around the warm start; for categorical
      actions, the share of the first candidates' choices that are uniform.
    correlation: correlation of the candidates' noise between successive decisions (AR(1)).
    num_particles: dreams per candidate; candidates share their noise.
    temperature: temperature of the dream.
    discount: factor per decision.
    disagreement_penalty: penalty for each unit of disagreement above `usual_disagreement`, summed
      over the plan, in units of return; see `WorldModel.unfamiliarity`.
    answer: which plan to follow. `best` is the best candidate; its imagined return is at least that
      of the proposal. `mean` is the mean of the final search distribution (the most likely plan for
      categorical actions), which depends less on the noise of the dreams.
  """

  optimiser: str = "cem"
  horizon: int = 12
  num_candidates: int = 64
  num_iterations: int = 3
  num_elites: int = 8
  initial_scale: float = 0.5
  correlation: float = 0.5
  num_particles: int = 1
  temperature: float = 1.0
  discount: float = 1.0
  disagreement_penalty: float = 0.0
  answer: str = "best"

  def __post_init__(self):
    check_search(self, "optimiser", "planner", others=("random_shooting",))
    check_choice(self, "answer", ANSWERS, group="planner.")
    check_counts(self, "horizon", "num_iterations", "num_particles", group="planner.")

  def strategy(self, action_size: int, num_choices: tuple[int, ...] = ()) -> Strategy:
    """Makes the search over flat plans of `horizon * action_size` numbers.

    Args:
      action_size: A.
      num_choices: choices in each group of a categorical action; empty for actions in [-1, 1].

    Returns:
      The search.

    Raises:
      ValueError: if the fields contradict each other.
    """
    name = "cem" if self.optimiser == "random_shooting" else self.optimiser
    # MPPI does not adapt its scale, so the lower bound and the momentum are for CEM only.
    refitted = dict(min_scale=0.05, momentum=0.1) if name != "mppi" else {}
    return make_search(
      name,
      num_choices=num_choices,
      num_candidates=self.num_candidates,
      num_elites=self.num_elites,
      initial_scale=self.initial_scale,
      correlation=self.correlation,
      action_size=action_size,
      bounds=(-1.0, 1.0),
      **refitted,
    )


class Planner(tf.Module):
  """Model-predictive control with any world model: a `Policy` whose memory is the plan.

  The search of every decision starts from the last plan, shifted by one step, or from the actions
  that `proposal` takes in the dream. Both are also candidates, so the imagined return of the best
  plan is at least theirs. Plans of categorical actions are one-hot.

  References:
    Hafner et al. 2019, "Learning Latent Dynamics for Planning from Pixels", arXiv:1811.04551,
    algorithm 2.
  """

  def __init__(
    self,
    world_model: WorldModel,
    config: PlannerConfig,
    proposal: Policy | None = None,
    critic: Critic | None = None,
    fixed: bool = False,
    name: str = "planner",
  ):
    """Makes a planner.

    Args:
      world_model: the world model.
      config: see `PlannerConfig`.
      proposal: a policy without memory, such as the evolved controller; None for none.
      critic: estimates the return after the last planned step; its discount replaces
        `config.discount`. None for no estimate.
      fixed: whether the model's weights do not change any more. The planner then optimises the
        imagined step once, here, and the weights are constants in an exported planner.
      name: module name.

    Raises:
      ValueError: if `num_candidates` is not above the number of warm starts: the last plan and
        the proposal.
    """
    super().__init__(name=name)
    num_starts = 1 if proposal is None else 2
    if config.num_candidates <= num_starts:
      raise ValueError(
        f"planner.num_candidates must be above {num_starts}, since the last plan"
        f"{'' if proposal is None else ' and the proposal'} count; got {config.num_candidates}."
      )
    self._world_model, self.config = world_model, config
    self._proposal, self._critic = proposal, critic
    self._strategy = config.strategy(world_model.action_size, world_model.num_choices)
    self._imagine_with_noise = world_model.imaginer() if fixed else None

  def initial_memory(self, batch_size):
    """Returns an empty plan, zeros `float32[B, H, A]`. See `Policy.initial_memory`."""
    return tf.zeros([batch_size, self.config.horizon, self._world_model.action_size])

  def act(self, state, memory, seed, explore: bool = False):
    """Plans; returns the first action `float32[B, A]` and the plan `float32[B, H, A]`.

    `explore` is not used. See `Policy.act`.
    """
    plan, _ = self.plan(state, memory, seed)
    return plan[:, 0], plan

  def plan(self, state, memory, seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Searches a plan.

    Args:
      state: the world model's state of B rows.
      memory: the last plan `float32[B, H, A]`, or zeros for none.
      seed: `int32[2]` or `int32[B, 2]`.

    Returns:
      A plan `float32[B, H, A]`, and the imagined return `float32[B]` of the best candidate.
    """
    config, size = self.config, self._world_model.action_size
    flat_size = config.horizon * size
    num_iterations = 1 if config.optimiser == "random_shooting" else config.num_iterations
    noise_seed, search_seed = rng.split(seed, 2)
    search_seeds = tf.stack(rng.split(search_seed, num_iterations))
    imagine_with_noise = self._imagine_with_noise or self._world_model.imaginer()

    def flat(plan):
      return tf.reshape(plan, [-1, flat_size])

    shifted = flat(tf.concat([memory[:, 1:], memory[:, -1:]], axis=1))
    start, starts = shifted, [self._valid(shifted)]
    if self._proposal is not None:
      start = flat(self._propose(state, noise_seed, imagine_with_noise))
      starts.insert(0, start)
    # The warm starts replace the first candidates that the search draws.
    extra = tf.stack(starts, axis=1)
    # All iterations use the same noise, so that their plans are comparable.
    noise = self._draw_noise(state, noise_seed)

    def iteration(i, search):
      x = self._strategy.ask(search, search_seeds[i])
      x = tf.concat([extra, x[:, len(starts) :]], axis=1)
      found = self._evaluate(state, x, noise, imagine_with_noise)
      return i + 1, self._strategy.tell(search, x, found)

    _, search = tf.while_loop(
      lambda i, _: i < num_iterations, iteration, (0, self._strategy.init(start))
    )
    best = self._strategy.best(search)
    plan = best.x if config.answer == "best" else self._strategy.mean(search)
    return tf.reshape(plan, [-1, config.horizon, size]), best.fitness

  def _valid(self, plan) -> tf.Tensor:
    """Returns a plan `float32[B, H * A]` with one-hot groups if actions are categorical."""
    num_choices = self._world_model.num_choices
    if not num_choices:
      return plan
    return actions.one_hot_argmax(plan, tuple(num_choices) * self.config.horizon)

  def _draw_noise(self, state, seed) -> Nest:
    """Draws the noise of P particles of B rows: `P * B` rows, in the order particle, batch."""
    num_particles = self.config.num_particles
    if num_particles > 1 and seed.shape.rank > 1:
      seed = tf.concat([rng.fold_in(seed, p) for p in range(num_particles)], axis=0)
    rows = num_particles * tf.shape(tf.nest.flatten(state)[0])[0]
    return self._world_model.draw_noise(rows, self.config.horizon, seed)

  def _evaluate(self, state, x, noise, imagine_with_noise) -> tf.Tensor:
    """Returns the imagined returns `float32[B, N]` of plans `float32[B, N, H * A]`."""
    config, size = self.config, self._world_model.action_size
    batch_size, num_candidates = tf.shape(x)[0], tf.shape(x)[1]
    # Rows in the order candidate, particle, batch, as `repeat_rows` makes them.
    plans = tf.reshape(
      tf.transpose(x, [1, 0, 2]), [num_candidates, 1, batch_size, config.horizon, size]
    )
    plans = tf.reshape(
      tf.tile(plans, [1, config.num_particles, 1, 1, 1]), [-1, config.horizon, size]
    )
    returns = imagine_returns(
      self._world_model,
      lambda t, state, memory: (plans[:, t], memory),
      repeat_rows(state, num_candidates * config.num_particles),
      config.horizon,
      None,
      temperature=config.temperature,
      num_copies=num_candidates,
      discount=self._critic.discount if self._critic else config.discount,
      noise=noise,
      imagine_with_noise=imagine_with_noise,
    )
    total = returns.imagined_return - config.disagreement_penalty * returns.unfamiliarity
    if self._critic:
      total += returns.alive * self._critic.value(returns.state)
    total = tf.reshape(total, [num_candidates, config.num_particles, batch_size])
    return tf.transpose(tf.reduce_mean(total, axis=1))

  def _propose(self, state, seed, imagine_with_noise) -> tf.Tensor:
    """Returns the actions `float32[B, H, A]` that the proposal takes in a separate dream."""
    model, config = self._world_model, self.config
    noise = model.draw_noise(tf.shape(tf.nest.flatten(state)[0])[0], config.horizon, seed)
    actions = []
    for t in range(config.horizon):
      action, _ = self._proposal.act(state, (), seed)
      actions.append(action)
      step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
      state = imagine_with_noise(state, action, step_noise, config.temperature).state
    return tf.stack(actions, axis=1)
