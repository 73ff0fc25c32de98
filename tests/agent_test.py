import copy
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests import fakes
from tests.worlds import AdditiveWorld, Always, assert_same, random_frames, rows_of
from wm_tf import rng
from wm_tf.agent import Agent, AgentActor
from wm_tf.core import AgentState
from wm_tf.policies import exploration

_SEEDS = tf.constant([[1, 2], [3, 4], [5, 6]])


class Wanderer:
  """A policy that uses all that it is given: the state, its memory, the seed, `explore`."""

  def initial_memory(self, batch_size):
    return {"count": tf.zeros([batch_size, 1])}

  def act(self, state, memory, seed, explore=False):
    noise = rng.normal([tf.shape(state.z)[0], 2], seed)
    action = tf.tanh(0.3 * state.z - 0.2 * state.distance + 0.1 * memory["count"] + 0.5 * noise)
    return (-action if explore else action), {"count": memory["count"] + 1.0}


def _agent(policy=None):
  return Agent(fakes.make_spec(), AdditiveWorld(), policy or Wanderer())


def test_initial_state():
  state = _agent().initial_state(tf.constant(3))
  assert state.prev_action.shape == (3, 2) and not np.any(state.prev_action)
  assert state.is_first.dtype == tf.bool and np.all(state.is_first)
  assert state.memory["count"].shape == (3, 1) and state.latent.z.shape == (3, 2)


def test_act_is_a_function_of_its_inputs():
  agent, frames = _agent(), random_frames(3)
  state = agent.initial_state(3)
  _, state = agent.act(frames, state, _SEEDS)
  before = tf.nest.map_structure(lambda x: x.numpy().copy(), state)
  action, after = agent.act(frames, state, _SEEDS)
  again = agent.act(frames, state, _SEEDS)
  assert_same((action, after), again, rtol=0, atol=0)
  assert_same(state, AgentState(*before), rtol=0, atol=0)
  assert_same(tf.function(agent.act)(frames, state, _SEEDS), again)
  np.testing.assert_array_equal(agent.act(frames, state, _SEEDS, explore=True)[0], -action)
  assert np.any(agent.act(frames, state, _SEEDS + 1)[0] != action)


def test_act_by_hand():
  """The frame is seen before the action is chosen, and what was done is remembered."""
  agent = _agent(Always([0.5, -0.25]))
  frames = np.zeros((2, 64, 64, 3), np.uint8)
  frames[0], frames[1] = 100, 50
  state = agent.initial_state(2)
  for step in range(3):
    action, state = agent.act(tf.constant(frames), state, rng.make_seed(1))
    np.testing.assert_array_equal(action, [[0.5, -0.25]] * 2)
    np.testing.assert_array_equal(state.prev_action, action)
    np.testing.assert_allclose(state.latent.z, [[1.0, 1.0], [0.5, 0.5]])
    np.testing.assert_allclose(state.latent.distance, [[0.75 * step]] * 2)
    np.testing.assert_array_equal(state.memory, [step + 1.0] * 2)
    assert not np.any(state.is_first)


def test_rows_are_independent():
  agent, frames = _agent(), random_frames(3)
  state = agent.initial_state(3)
  for _ in range(2):
    previous, (action, state) = state, agent.act(frames, state, _SEEDS)
  for row in range(3):
    alone = agent.act(frames[row : row + 1], rows_of(previous, [row]), _SEEDS[row : row + 1])
    assert_same(alone, rows_of((action, state), [row]))


def test_the_model_and_the_policy_have_seeds_of_their_own():
  seen = []

  class Model(AdditiveWorld):
    def observe(self, state, prev_action, observation, is_first, seed):
      seen.append(seed.numpy().tolist())
      return super().observe(state, prev_action, observation, is_first, seed)

  class Policy(Always):
    def act(self, state, memory, seed, explore=False):
      seen.append(seed.numpy().tolist())
      return super().act(state, memory, seed, explore)

  agent = Agent(fakes.make_spec(), Model(), Policy([0.0, 0.0]))
  agent.act(random_frames(1), agent.initial_state(1), rng.make_seed(1))
  assert len(seen) == 2 and seen[0] != seen[1]


def test_a_model_of_another_environment_is_an_error():
  with pytest.raises(ValueError, match="takes 3 action numbers but environment 'counting' has 2"):
    Agent(fakes.make_spec(), AdditiveWorld(action_size=3), Wanderer())


def _play(actor, frames, is_first, seeds):
  """The actions `[T, B, A]` for frames `[T, B, ...]`."""
  return np.stack([actor.act(frames[t], is_first[t], seeds[t], None) for t in range(len(frames))])


def test_an_actors_row_depends_on_its_episode_alone():
  """Three rows that begin at other times, against each episode played alone."""
  frames = random_frames(7, 3)
  first = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
  first = first.astype(bool)
  seeds = np.cumsum(first, axis=0) * 10 + np.arange(3) + 2**33
  actor = AgentActor(_agent())
  actor.begin(3)
  together = _play(actor, frames, first, seeds)
  assert together.shape == (7, 3, 2) and together.dtype == np.float32
  for row in range(3):
    starts = [*np.flatnonzero(first[:, row]), 7]
    for begin, end in itertools.pairwise(starts):
      actor.begin(1)
      part = slice(begin, end), slice(row, row + 1)
      alone = _play(actor, frames[part], first[part], seeds[part])
      np.testing.assert_allclose(alone[:, 0], together[begin:end, row], atol=1e-6)


def test_another_seed_and_another_step_bring_other_noise():
  frames, first = random_frames(1, 2).repeat(3, axis=0), np.zeros((3, 2), bool)
  frames[:, 1] = frames[:, 0]
  first[0] = True
  actor = AgentActor(_agent())
  actor.begin(2)
  same = _play(actor, frames, first, np.array([[5, 5]] * 3))
  np.testing.assert_array_equal(same[:, 0], same[:, 1])
  actor.begin(2)
  other = _play(actor, frames, first, np.array([[5, 6]] * 3))
  np.testing.assert_array_equal(same[:, 0], other[:, 0])
  assert np.abs(other[:, 0] - other[:, 1]).max(-1).min() > 1e-3


def test_copies_of_an_actor_do_not_meet():
  """As `run_episodes` makes them, one for each group of rows."""
  frames, first = random_frames(3, 1), np.array([[True], [False], [False]])
  seeds = np.array([[1]] * 3)
  actor = AgentActor(_agent())
  one, two = copy.copy(actor), copy.copy(actor)
  one.begin(1)
  two.begin(1)
  alternating = [[a.act(frames[t], first[t], seeds[t]) for a in (one, two)] for t in range(3)]
  for actions in np.swapaxes(alternating, 0, 1):
    actor.begin(1)
    np.testing.assert_array_equal(actions, _play(actor, frames, first, seeds))


def test_an_actor_may_explore():
  frames, first, seeds = random_frames(1, 2), np.ones((1, 2), bool), np.array([[3, 4]])
  plain, exploring = AgentActor(_agent()), AgentActor(_agent(), explore=True)
  for actor in (plain, exploring):
    actor.begin(2)
  np.testing.assert_array_equal(
    _play(plain, frames, first, seeds), -_play(exploring, frames, first, seeds)
  )


def test_agent_under_noise_remembers_what_it_really_did():
  class Lists(AgentActor):
    """Keeps the memory that each decision began with."""

    def act(self, observation, is_first, seeds, infos=None):
      self.remembered = self._state.prev_action.numpy()
      return super().act(observation, is_first, seeds, infos)

  inner = Lists(_agent())
  actor = exploration.Noisy(inner, 0.5)
  actor.begin(2)
  frames, seeds = random_frames(2), np.array([5, 6])
  did = actor.act(frames, np.array([True, True]), seeds, [{}, {}])
  actor.act(frames, np.array([False, False]), seeds, [{}, {}])
  remembered = actor._actor.remembered
  np.testing.assert_array_equal(remembered, did)
  plain = AgentActor(_agent())
  plain.begin(2)
  assert np.abs(plain.act(frames, np.array([True, True]), seeds) - did).max() > 0.05
