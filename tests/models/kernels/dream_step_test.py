"""The steps of a rollout are `imagine_with_noise`, whatever the options of the model."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import assert_same, latents_of, small_mdn_rnn
from wm_tf import rng
from wm_tf.models.heads import HeadNetwork
from wm_tf.models.kernels.dream_step import side_by_side
from wm_tf.models.mixture_head import MIXTURE_KINDS

_ROWS = 64


@pytest.mark.parametrize("ensemble_size", [1, 3])
@pytest.mark.parametrize(
  ("kind", "skip", "change", "head_hidden_size"),
  [*itertools.product(MIXTURE_KINDS, [False, True], [True], [0, 5]), ("joint", True, False, 5)],
)
def test_a_step_is_the_readable_step(ensemble_size, kind, skip, change, head_hidden_size):
  model = small_mdn_rnn(
    ensemble_size=ensemble_size,
    mixture_kind=kind,
    skip_connection=skip,
    predict_change=change,
    head_hidden_size=head_hidden_size,
  )
  state, seed = model.initial_state(_ROWS), rng.make_seed(1)
  state = state._replace(
    z=tf.constant(latents_of(model, _ROWS, 1)[:, 0, : model.latent_size]),
    h=rng.normal(state.h.shape, seed),
    c=rng.normal(state.c.shape, seed),
  )
  action = rng.uniform([_ROWS, 2], seed)
  noise = tf.nest.map_structure(lambda x: x[:, 0], model.draw_noise(_ROWS, 1, seed))
  step = model.imaginer()
  for temperature in (0.0, 1, 1.2, tf.linspace(0.0, 2.0, _ROWS)):
    readable = model.imagine_with_noise(state, action, noise, temperature)
    assert_same(step(state, action, noise, temperature), readable, rtol=1e-4)
  if kind == "per_dimension" and skip and head_hidden_size:
    compiled = tf.function(step, jit_compile=True)(state, action, noise, 1.2)
    readable = model.imagine_with_noise(state, action, noise, 1.2)
    assert_same(compiled, readable, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hidden_size", [0, 7])
def test_networks_side_by_side_answer_as_each_alone(hidden_size):
  generator = np.random.default_rng(0)
  networks = [HeadNetwork(size, 5, hidden_size, None) for size in (4, 1, 2)]
  for network in networks:
    for weight in network.weights:
      weight.assign(generator.normal(size=weight.shape))
  h = tf.constant(generator.normal(size=(6, 5)), tf.float32)
  (kernel, bias), finish = side_by_side(networks)
  for network, found in zip(networks, finish(h @ kernel + bias), strict=True):
    np.testing.assert_allclose(found, network(h), rtol=1e-4, atol=1e-5)
