import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveWorld, assert_same, small_mdn_rnn, state_at
from wm_tf import rng
from wm_tf.learners.policy_gradients.auto_reset import FIRST, LAST, MID, Dreams
from wm_tf.learners.policy_gradients.methods import PolicyGradientConfig, PPOConfig

_SEED = rng.make_seed(3)


def _rollout(dreams, starts, action, num_steps):
  randomness = dreams.draw(len(starts.z), num_steps + 1, _SEED)
  rows = tf.fill([dreams.batch_size, 2], action)
  return dreams.rollout(lambda features, t: (rows, rows), starts, randomness)


def test_dreams_begin_again_at_the_horizon():
  """Steps of 0.25 towards a goal at 1, three in a dream; every number computed by hand."""
  dreams = Dreams(AdditiveWorld(goal=1.0), batch_size=2, horizon=3)
  found = _rollout(dreams, state_at([[0.0, 1.0]]), 0.25, num_steps=6)
  steps = [0, 1, 2, 3, 0, 1, 2]  # The action after an end is ignored.
  np.testing.assert_allclose(found.features[0, :, 0], 0.25 * np.array(steps))
  np.testing.assert_allclose(found.features[0, :, 2], 0.5 * np.array(steps))
  assert found.step_type[0].numpy().tolist() == [FIRST, MID, MID, LAST, FIRST, MID, MID]
  z = np.array([[0.25 * k, 1.0 + 0.25 * k] for k in steps])
  reward = np.where(np.array(steps) == 0, 0.0, -np.square(z - 1.0).sum(1))
  np.testing.assert_allclose(found.reward[1], reward, atol=1e-6)
  assert np.all(found.discount == 1.0)  # Reaching the horizon is not a termination.


def test_dreams_terminate_as_often_as_the_discount_says():
  dreams = Dreams(AdditiveWorld(discount=0.75), batch_size=4000, horizon=50)
  found = _rollout(dreams, state_at([[0.0, 0.0]]), 0.0, num_steps=4)
  alive = found.step_type[:, :-1] != LAST
  assert abs(np.mean(found.discount[:, 1:][alive]) - 0.75) < 0.02
  assert np.all((found.discount == 0) == (found.step_type == LAST))
  again = found.step_type[:, 1:][found.step_type[:, :-1] == LAST]
  assert len(again) > 100 and np.all(again == FIRST)


def test_actions_are_clipped_and_disagreement_is_subtracted():
  world = AdditiveWorld(goal=0.0, gain=0.0)
  dreams = Dreams(world, batch_size=1, horizon=9, disagreement_penalty=2.0)
  found = _rollout(dreams, state_at([[0.0, 0.0]]), 5.0, num_steps=2)
  assert np.all(found.choice == 5.0)
  np.testing.assert_allclose(found.disagreement[0], [0.0, 2.0, 2.0])
  np.testing.assert_allclose(found.reward[0], [0.0, -4.0, -4.0])


def test_dreams_begin_everywhere():
  dreams = Dreams(AdditiveWorld(), batch_size=300, horizon=1)
  found = _rollout(dreams, state_at([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 0.0, num_steps=2)
  for t in (0, 2):
    counts = np.bincount(found.features[:, t, 0].numpy().astype(int), minlength=3)
    assert np.all(counts > 60)


def test_a_dream_equals_imagined_steps():
  """With the same noise; compiled and not compiled, up to rounding."""
  model = small_mdn_rnn()
  starts = model.imagine(model.initial_state(1), tf.zeros([1, 2]), _SEED).state
  dreams = Dreams(model, batch_size=4, horizon=9, temperature=0.7)
  randomness = dreams.draw(1, 4, _SEED)
  randomness = randomness._replace(survival=tf.zeros([4, 4]))  # None terminates.
  noise = tf.nest.map_structure(lambda x: x[:, 1:], randomness.noise)
  action = tf.constant([[0.3, -0.6]] * 4)
  state = tf.nest.map_structure(lambda x: tf.repeat(x, 4, axis=0), starts)

  def roll():
    return dreams.rollout(lambda features, t: (action, action), starts, randomness)

  found, compiled = roll(), tf.function(roll, jit_compile=True)()
  assert_same(found, compiled, rtol=1e-4, atol=1e-5)
  for t in range(3):
    step_noise = tf.nest.map_structure(lambda x, t=t: x[:, t], noise)
    np.testing.assert_allclose(found.features[:, t], model.features(state), rtol=1e-4, atol=1e-5)
    prediction = model.imagine_with_noise(state, action, step_noise, 0.7)
    np.testing.assert_allclose(found.reward[:, t + 1], prediction.reward, rtol=1e-4, atol=1e-5)
    state = prediction.state


@pytest.mark.parametrize(
  "options",
  [
    {"num_updates": 0},
    {"discount": 1.5},
    {"final_action_noise": 0.0},
    {"target_rate": 1.1},
    {"clip_norm": 0.0},
    {"lambda_": -0.1},
    {"num_epochs": 0},
    {"clip_range": 0.0},
    {"num_minibatches": 10**6},
  ],
)
def test_refuses(options):
  (name,) = options
  with pytest.raises(ValueError, match=name):
    PPOConfig(**options)
  if hasattr(PolicyGradientConfig, name):
    with pytest.raises(ValueError, match=name):
      PolicyGradientConfig(**options)
