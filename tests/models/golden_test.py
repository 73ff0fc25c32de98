"""Image models keep the weights and the numbers that they had in earlier releases."""

import numpy as np
import pytest
import tensorflow as tf

from tests.worlds import embedded_batch, latents_of, random_frames, small_mdn_rnn, small_vae
from wm_tf import rng
from wm_tf.imagination import imagine_returns
from wm_tf.training.checkpoints import name_variables

_SEED = rng.make_seed(7)


def _pairs(*layers):
  return [f"{layer}/{role}" for layer in layers for role in ("kernel", "bias")]


_VAE = _pairs(*["conv2d"] * 4, "posterior", "dense", *["conv2d_transpose"] * 4)
_WEIGHTS = {
  1: [
    *(f"mdn_rnn/{name}" for name in ("latent_loc", "latent_scale", "change_scale")),
    *_VAE,
    *(f"lstm_cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")),
    *_pairs("projection", *["dense"] * 4),
  ],
  3: [
    *(f"ensemble/{name}" for name in ("latent_loc", "latent_scale", "change_scale")),
    *("ensemble/reward_scale", "ensemble/usual_disagreement"),
    *_VAE,
    *(f"lstm/{name}" for name in ("kernel", "recurrent_kernel", "bias")),
    *_pairs("projection", *["stacked_dense"] * 4),
  ],
}


def _names(model):
  return [name.partition("/")[2] for name in name_variables(model.weights)]


def test_the_vae():
  vae = small_vae(row_weights=((56, 64, 4.0),))
  assert _names(vae) == _VAE
  loss, metrics = vae.loss(random_frames(4), _SEED)
  np.testing.assert_allclose(loss, 3065.1858, rtol=1e-4)
  np.testing.assert_allclose(metrics["sse"], 2439.2725, rtol=1e-4)
  np.testing.assert_allclose(metrics["kl"], 33.280708, rtol=1e-4)


@pytest.mark.parametrize(
  ("kind", "num_members", "loss", "norm", "returns", "latents", "unfamiliarity"),
  [
    ("per_dimension", 1, 5.79043, 2.31892, [6.7689, 6.28415, 6.97281, 5.64477], 1.73079, 0.0),
    ("joint", 1, 4.99378, 1.89487, [0.45528, 0.59947, 0.67207, 3.93714], 0.54791, 0.0),
    (
      *("per_dimension", 3, 14.697, 2.62509),
      *([-0.27295, -0.34317, -0.23382, -0.32365], -1.67522, 10.84921),
    ),
    ("joint", 3, 18.63919, 4.8227, [4.94329, 4.90456, 4.89501, 5.09144], -1.89695, 13.33012),
  ],
)
def test_the_dynamics(kind, num_members, loss, norm, returns, latents, unfamiliarity):
  model = small_mdn_rnn(mixture_kind=kind, ensemble_size=num_members)
  assert _names(model) == _WEIGHTS[num_members]
  batch = embedded_batch(latents_of(model, 4, 6), lengths=(6, 3, 5, 6))
  with tf.GradientTape() as tape:
    found, _ = model.loss(batch, _SEED)
  gradients = tape.gradient(found, model.trainable_variables)
  np.testing.assert_allclose(found, loss, rtol=1e-4)
  np.testing.assert_allclose(tf.linalg.global_norm(gradients), norm, rtol=1e-3)

  def action_fn(t, state, memory):
    return tf.fill([4, 2], 0.5), memory

  dreams = imagine_returns(model, action_fn, model.initial_state(4), 8, _SEED, temperature=1.1)
  np.testing.assert_allclose(dreams.imagined_return, returns, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(tf.reduce_sum(dreams.state.z), latents, rtol=1e-3)
  np.testing.assert_allclose(tf.reduce_sum(dreams.unfamiliarity), unfamiliarity, rtol=1e-3)
