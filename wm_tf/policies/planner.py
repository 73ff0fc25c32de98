"""Model-predictive control: search action sequences in the dream, do the first action, repeat."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from wm_tf import rng
from wm_tf.checks import check_choice, check_counts
from wm_tf.core import Nest, Policy
from wm_tf.imagination import imagine_returns, repeat_rows
from wm_tf.models.world_model import WorldModel
from wm_tf.policies.actor import Critic
from wm_tf.search.cem import CEM
from wm_tf.search.mppi import MPPI
from wm_tf.search.strategy import Strategy

OPTIMISERS = ("cem", "mppi", "random_shooting")
ANSWERS = ("best", "mean")


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
  """How much a planner searches.

  Attributes:
    optimiser: `cem`, `mppi`, or `random_shooting` (CEM with one iteration).
    horizon: H, decisions looked ahead.
    num_candidates: N action sequences per iteration, the last plan and the proposal among them.
    num_iterations: refinements per decision.
    num_elites: sequences that CEM refits to.
    initial_scale: standard deviation of the first candidates around the warm start.
    correlation: of the candidates' noise from one decision to the next (AR(1)).
    num_particles: dreams per candidate; candidates share their noise.
    temperature: of the dream that is planned in.
    discount: factor per decision.
    disagreement_penalty: what disagreement beyond the usual costs for each unit of its sum, in
      units of return; see `WorldModel.unfamiliarity`.
    answer: the plan that is followed: the `best` of all candidates, which is never worse than the
      proposal in the dreams that it was chosen by; or the `mean` that the search ends with, which
      owes less to the luck of those dreams.
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
    check_choice(self, "optimiser", OPTIMISERS, group="planner.")
    check_choice(self, "answer", ANSWERS, group="planner.")
    check_counts(self, "horizon", "num_iterations", "num_particles", group="planner.")

  def strategy(self, action_size: int) -> Strategy:
    """Returns the search over flat plans of `horizon * action_size` numbers in [-1, 1]."""
    common = dict(
      num_candidates=self.num_candidates,
      initial_scale=self.initial_scale,
      correlation=self.correlation,
      action_size=action_size,
      bounds=(-1.0, 1.0),
    )
    if self.optimiser == "mppi":
      return MPPI(**common)
    return CEM(num_elites=self.num_elites, min_scale=0.05, momentum=0.1, **common)


class Planner(tf.Module):
  """MPC over any world model: a `Policy` whose memory is the plan.

  Every decision starts from the last plan, shifted, or from what `proposal` would do in the dream;
  both are candidates themselves, so that in the model the best plan is never worse than either.

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
      world_model: any.
      config: see `PlannerConfig`.
      proposal: a policy without memory, such as the evolved controller.
      critic: what the state after the last planned step is still worth; its discount takes the
        place of the configuration's.
      fixed: whether the model's weights stay as they are now; they are then laid out here and not
        at each decision. A planner that is exported so has them as constants.
      name: module name.

    Raises:
      ValueError: if the last plan and the proposal leave no candidate to be drawn.
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
    self._strategy = config.strategy(world_model.action_size)
    self._imagine_with_noise = world_model.imaginer() if fixed else None

  def initial_memory(self, batch_size):
    """An empty plan, `float32[B, H, A]`."""
    return tf.zeros([batch_size, self.config.horizon, self._world_model.action_size])

  def act(self, state, memory, seed, explore: bool = False):
    """Plans; returns the first action `float32[B, A]` and the plan `float32[B, H, A]`."""
    plan, _ = self.plan(state, memory, seed)
    return plan[:, 0], plan

  def plan(self, state, memory, seed) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a plan `float32[B, H, A]`, and the imagined return of the best one `float32[B]`."""
    config, size = self.config, self._world_model.action_size
    flat_size = config.horizon * size
    num_iterations = 1 if config.optimiser == "random_shooting" else config.num_iterations
    noise_seed, search_seed = rng.split(seed, 2)
    search_seeds = tf.stack(rng.split(search_seed, num_iterations))
    imagine_with_noise = self._imagine_with_noise or self._world_model.imaginer()
    flat = lambda plan: tf.reshape(plan, [-1, flat_size])
    shifted = flat(tf.concat([memory[:, 1:], memory[:, -1:]], axis=1))
    starts = [shifted]
    if self._proposal is not None:
      starts.insert(0, flat(self._propose(state, noise_seed, imagine_with_noise)))
    # Candidates themselves, in the places of some that are drawn.
    extra = tf.stack(starts, axis=1)
    # The same noise in every iteration: plans of different iterations stay comparable.
    noise = self._draw_noise(state, noise_seed)

    def iteration(i, search):
      x = self._strategy.ask(search, search_seeds[i])
      x = tf.concat([extra, x[:, len(starts) :]], axis=1)
      found = self._evaluate(state, x, noise, imagine_with_noise)
      return i + 1, self._strategy.tell(search, x, found)

    _, search = tf.while_loop(
      lambda i, _: i < num_iterations, iteration, (0, self._strategy.init(starts[0]))
    )
    best = self._strategy.best(search)
    plan = best.x if config.answer == "best" else self._strategy.mean(search)
    return tf.reshape(plan, [-1, config.horizon, size]), best.fitness

  def _draw_noise(self, state, seed) -> Nest:
    """The noise of B rows, or of each of their particles: `P * B`, in the order particle, batch."""
    num_particles = self.config.num_particles
    if num_particles > 1 and seed.shape.rank > 1:
      seed = tf.concat([rng.fold_in(seed, p) for p in range(num_particles)], axis=0)
    rows = num_particles * tf.shape(tf.nest.flatten(state)[0])[0]
    return self._world_model.draw_noise(rows, self.config.horizon, seed)

  def _evaluate(self, state, x, noise, imagine_with_noise) -> tf.Tensor:
    """Imagined returns `float32[B, N]` of plans `float32[B, N, H * A]`."""
    config, size = self.config, self._world_model.action_size
    batch_size, num_candidates = tf.shape(x)[0], tf.shape(x)[1]
    # Rows in the order candidate, particle, batch: what `repeat_rows` makes.
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
    """The actions `float32[B, H, A]` that the proposal takes in a dream of its own."""
    model, config = self._world_model, self.config
    noise = model.draw_noise(tf.shape(tf.nest.flatten(state)[0])[0], config.horizon, seed)
    actions = []
    for t in range(config.horizon):
      action, _ = self._proposal.act(state, (), seed)
      actions.append(action)
      step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
      state = imagine_with_noise(state, action, step_noise, config.temperature).state
    return tf.stack(actions, axis=1)
