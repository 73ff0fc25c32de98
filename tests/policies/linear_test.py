import types

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import AdditiveState, AdditiveWorld
from wm_tf.policies.linear import LinearController, fit_basis


def _world(feature_size=5, action_size=2):
  """What a controller needs to know of a model."""
  return types.SimpleNamespace(
    feature_size=feature_size,
    action_size=action_size,
    num_choices=(),
    features=lambda state: state,
  )


def _centred(size, num=2):
  return np.arange(size) < num


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_papers_controller_has_867_parameters():
  assert LinearController(_world(feature_size=32 + 256, action_size=3)).num_parameters == 867


def test_actions_of_many_controllers_against_numpy():
  controller = LinearController(_world(), basis_size=3)
  controller.loc.assign(_random(5))
  controller.matrix.assign(_random(5, 3, seed=1))
  parameters, features = _random(4, controller.num_parameters, seed=2), _random(4, 6, 5, seed=3)
  actions = controller.actions(parameters, features)
  assert actions.shape == (4, 6, 2)
  for n in range(4):
    weights = parameters[n].reshape(4, 2)  # A row for each number of the basis, and the bias.
    basis = (features[n] - controller.loc.numpy()) @ controller.matrix.numpy()
    expected = np.tanh(basis @ weights[:3] + weights[3])
    np.testing.assert_allclose(actions[n], expected, rtol=1e-4, atol=1e-5)
    controller.parameters.assign(parameters[n])
    action, memory = controller.act(tf.constant(features[n]), (), None)
    np.testing.assert_allclose(action, actions[n], atol=1e-6)
    assert memory == ()


def test_begins_at_zero_with_the_features_themselves():
  controller = LinearController(_world())
  features = tf.constant(_random(3, 5))
  np.testing.assert_array_equal(controller.basis(features), features)
  np.testing.assert_array_equal(controller.act(features, ())[0], np.zeros((3, 2)))
  np.testing.assert_array_equal(
    LinearController(_world(), basis_size=2).basis(features), features[:, :2]
  )
  assert controller.initial_memory(3) == ()
  assert controller.trainable_variables == (controller.parameters,)


def test_acts_on_a_world_models_features():
  world = AdditiveWorld()
  controller = LinearController(world)
  # Steer towards the second number, brake with the distance.
  weights = np.zeros((4, 2), np.float32)
  weights[1, 0], weights[2, 1] = 1.0, -2.0
  controller.parameters.assign(weights.ravel())
  state = AdditiveState(tf.constant([[9.0, 0.3]]), tf.constant([[0.5]]))
  np.testing.assert_allclose(controller.act(state, ())[0], [[np.tanh(0.3), np.tanh(-1.0)]])


def _correlated_features(num_rows=400):
  """2 latents, and 6 hidden units that 3 factors move, each less than the one before."""
  generator = np.random.default_rng(0)
  latents = generator.normal([3.0, -1.0], [0.2, 4.0], (num_rows, 2))
  factors = generator.normal(size=(num_rows, 3)) * [3.0, 1.0, 0.3]
  directions = np.linalg.qr(generator.normal(size=(6, 6)))[0][:3]
  hidden = 0.5 + factors @ directions + 0.01 * generator.normal(size=(num_rows, 6))
  return np.concatenate([latents, hidden], axis=1).astype(np.float32), directions


def test_fit_basis_whitens():
  features, directions = _correlated_features()
  loc, matrix = fit_basis(features, _centred(8), 3)
  assert (loc.shape, matrix.shape) == ((8,), (8, 5))
  assert loc.dtype == matrix.dtype == np.float32
  basis = (features.astype(np.float64) - loc) @ matrix
  np.testing.assert_allclose(basis.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.cov(basis[:, 2:].T, bias=True), np.eye(3), atol=2e-3)
  # Latents stay themselves but for the mean, and components are the leading ones, in order.
  np.testing.assert_allclose(basis[:, :2], features[:, :2] - loc[:2], atol=1e-5)
  assert not matrix[2:, :2].any() and not matrix[:2, 2:].any()
  components = matrix[2:, 2:] / np.linalg.norm(matrix[2:, 2:], axis=0)
  assert np.all(np.abs((components * directions.T).sum(0)) > 0.95)


def test_fit_basis_does_not_depend_on_the_order_of_rows():
  features, _ = _correlated_features()
  for one, two in zip(
    fit_basis(features, _centred(8), 3), fit_basis(features[::-1], _centred(8), 3), strict=True
  ):
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_fit_basis_without_components_standardises_the_hidden_units():
  features, _ = _correlated_features()
  features[:, 4] = 0.7  # Never blown up.
  loc, matrix = fit_basis(features, _centred(8), None)
  basis = (features - loc) @ matrix
  expected = [*features[:, :2].std(0), 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
  np.testing.assert_allclose(basis.std(0), expected, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(basis.mean(0), 0, atol=1e-3)
  np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))


def test_a_controller_in_a_basis_is_linear_in_the_features():
  features, _ = _correlated_features()
  controller = LinearController(_world(8), basis_size=5)
  loc, matrix = fit_basis(features, _centred(8), 3)
  controller.loc.assign(loc)
  controller.matrix.assign(matrix)
  controller.parameters.assign(0.3 * _random(12))
  before_tanh = np.arctanh(controller.act(tf.constant(features[:50]), ())[0].numpy())
  design = np.concatenate([features[:50], np.ones((50, 1))], axis=1)
  residual = before_tanh - design @ np.linalg.lstsq(design, before_tanh, rcond=None)[0]
  assert np.abs(residual).max() < 1e-2 * np.abs(before_tanh).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_an_error(bad):
  features, _ = _correlated_features()
  features[3, 5] = bad
  with pytest.raises(ValueError, match="features given to fit_basis are NaN or infinite"):
    fit_basis(features, _centred(8), 3)


@pytest.mark.parametrize(("rows", "components"), [(400, 7), (2, 3)])
def test_too_many_components_are_an_error(rows, components):
  features, _ = _correlated_features()
  with pytest.raises(ValueError, match=f"{components} principal components asked of {rows} rows"):
    fit_basis(features[:rows], _centred(8), components)
