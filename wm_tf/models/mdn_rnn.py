"""The MDN-RNN of World Models: an LSTM with a mixture density over a VAE's next latent."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Prediction
from wm_tf.models.heads import TerminationHead, make_reward_head
from wm_tf.models.kernels.dream_step import make_dream_step
from wm_tf.models.kernels.recurrence import CompiledLSTM
from wm_tf.models.latent_dynamics import LatentDynamics, MDNRNNConfig
from wm_tf.models.mixture_head import MixtureHead
from wm_tf.models.vae import VAE

_DEFAULTS = MDNRNNConfig()


class MDNRNNState(NamedTuple):
  """`z` is the latent of the current observation; `h` and `c` are the LSTM's state before it."""

  z: tf.Tensor  # float32[B, Z]
  h: tf.Tensor  # float32[B, U]
  c: tf.Tensor  # float32[B, U]


class MDNRNN(LatentDynamics):
  """`z_{t+1} ~ P(. | z_t, a_t, h_t)` with an LSTM and a mixture density head.

  Its posterior of `z` does not depend on the recurrent state: `observe` steps the LSTM with the
  previous latent and action, then takes `z` from the VAE.

  `imagine_with_noise` is the reference implementation of a step. Rollouts use `imaginer`, which
  computes the same step faster (`kernels/dream_step.py`). The LSTM over sequences and the
  mixture's log-likelihood are kernels too. Tests check that each kernel equals its reference.

  References:
    Ha & Schmidhuber 2018, arXiv:1803.10122, section 3.2 and appendix A.2.
  """

  def __init__(
    self,
    vae: VAE,
    action_size: int,
    config: MDNRNNConfig = _DEFAULTS,
    num_choices: tuple[int, ...] = (),
    name: str = "mdn_rnn",
  ):
    """Initializes the model with new weights.

    Args:
      vae: a trained VAE.
      action_size: A.
      config: sizes and loss weights; its `ensemble_size` is not used.
      num_choices: groups of a categorical action; empty if actions are continuous.
      name: the name of the Keras model.
    """
    super().__init__(vae, action_size, config, num_choices, name)
    self.feature_size = self.latent_size + config.hidden_size
    input_size = self.latent_size + action_size
    self.lstm = CompiledLSTM(config.hidden_size, return_sequences=True, name="lstm")
    self.lstm.build((None, None, input_size))
    self.mixture = MixtureHead(
      self.latent_size,
      config.num_mixtures,
      config.mixture_kind,
      config.hidden_size + (input_size if config.skip_connection else 0),
    )
    self.reward = make_reward_head(
      config.reward_bins, config.reward_limit, config.hidden_size, config.head_hidden_size
    )
    self.termination = TerminationHead(
      config.hidden_size, config.termination_positive_weight, config.head_hidden_size
    )
    self.built = True

  def initial_state(self, batch_size) -> MDNRNNState:
    """Returns a state of zeros. See `WorldModel.initial_state`."""
    hidden = tf.zeros([batch_size, self.config.hidden_size])
    return MDNRNNState(z=tf.zeros([batch_size, self.latent_size]), h=hidden, c=hidden)

  def features(self, state: MDNRNNState) -> tf.Tensor:
    """Returns `[standardised z, h]`, `float32[..., Z + U]`. See `WorldModel.features`."""
    return tf.concat([self.standardise(state.z), state.h], axis=-1)

  def observe(self, state, prev_action, observation, is_first, seed=None) -> MDNRNNState:
    """Steps the LSTM and takes `z` from the VAE's posterior mean; `seed` is not used.

    See `WorldModel.observe`.
    """
    h, c = self.lstm.step(self.inputs(state.z, prev_action), state.h, state.c)
    # `where` rather than a product with 0, which would keep a NaN.
    h, c = (tf.where(is_first[:, tf.newaxis], 0.0, x) for x in (h, c))
    loc, _ = self.posterior(observation)
    return MDNRNNState(z=loc, h=h, c=c)

  def draw_noise(self, batch_size, num_steps, seed):
    """Draws uniform and standard normal numbers, each `float32[B, num_steps, Z]`.

    See `WorldModel.draw_noise`.
    """
    choice_seed, normal_seed = rng.split(seed, 2)
    shape = [batch_size, num_steps, self.latent_size]
    return rng.uniform(shape, choice_seed), rng.normal(shape, normal_seed)

  def imagine_with_noise(self, state, action, noise, temperature=1.0) -> Prediction:
    """Steps the LSTM and samples the next latent. See `WorldModel.imagine_with_noise`."""
    inputs = self.inputs(state.z, action)
    h, c = self.lstm.step(inputs, state.h, state.c)
    sample = self.mixture.sample(self.mixture_inputs(h, inputs), *noise, temperature)
    z = self.mover()(state.z, sample)
    return self.prediction(
      MDNRNNState(z, h, c), self.reward.network(h), self.termination.network(h)
    )

  def imaginer(self):
    """Returns the step of `kernels/dream_step.py`. See `WorldModel.imaginer`."""
    return make_dream_step(self)

  def prediction(self, state, reward_logits, termination_logits) -> Prediction:
    """Makes a `Prediction` from the next state and the outputs of both heads' networks.

    Args:
      state: the next `MDNRNNState`, of B rows.
      reward_logits: `float32[B, num_bins]`.
      termination_logits: `float32[B, 1]`.

    Returns:
      The `Prediction` of B rows; its disagreement is 0.
    """
    return Prediction(
      state=state,
      reward=self.reward.mean(reward_logits),
      discount=self.termination.discount(termination_logits),
      disagreement=tf.zeros_like(state.h[:, 0]),
    )

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the teacher-forced loss of a batch of sequences.

    Args:
      batch: sequences in arrival alignment, of observations or `Embedded`.
      seed: `int32[2]` for the posterior samples.

    Returns:
      The scalar loss (nats per latent dimension + weighted reward and termination terms) and
      scalar metrics: `nll_per_dimension`, `reward_loss` and `termination_loss`.
      `nll_per_dimension` is in nats of the standardised latent (a standard normal has 1.419), with
      or without `predict_change`.
    """
    loc, log_scale = self.posterior(batch.observation)
    z = loc
    if self.config.sample_latents:
      z += tf.exp(log_scale) * rng.normal(tf.shape(loc), seed)
    return prediction_loss(self, z, self.inputs(z[:, :-1], batch.prev_action[:, 1:]), batch)


def prediction_loss(model: LatentDynamics, z: tf.Tensor, inputs: tf.Tensor, batch: Batch):
  """Computes the loss of predicting the next latent, reward and termination of each step.

  Args:
    model: an `MDNRNN`, or an `Ensemble` of M members.
    z: latents `float32[B, T, Z]`; `[M, B, T, Z]` of an ensemble.
    inputs: of the LSTM, `float32[..., T - 1, Z + A]`.
    batch: rewards, discounts and the mask of B sequences.

  Returns:
    The scalar loss, summed over the members of an ensemble, and scalar metrics, averaged over them.
  """
  config, h = model.config, model.lstm(inputs)
  if config.predict_change:
    target = (z[..., 1:, :] - z[..., :-1, :]) / model.change_scale
    log_jacobian = tf.reduce_sum(tf.math.log(model.change_scale / model.latent_scale))
  else:
    target, log_jacobian = model.standardise(z[..., 1:, :]), 0.0
  mask = tf.cast(batch.mask[:, 1:], tf.float32)
  count = tf.maximum(tf.reduce_sum(mask), 1.0)

  def mean(x):
    return tf.reduce_sum(x * mask, axis=[-2, -1]) / count

  def of_each_step(x):
    return tf.broadcast_to(x[:, 1:], tf.shape(h)[:-1])

  nll = mean(model.mixture.nll(model.mixture_inputs(h, inputs), target)) / model.latent_size
  reward = mean(model.reward.loss(model.reward.network(h), of_each_step(batch.reward)))
  termination = mean(
    model.termination.loss(model.termination.network(h), of_each_step(batch.discount))
  )
  loss = nll + config.reward_weight * reward + config.termination_weight * termination
  return tf.reduce_sum(loss), {
    "nll_per_dimension": tf.reduce_mean(nll) + log_jacobian / model.latent_size,
    "reward_loss": tf.reduce_mean(reward),
    "termination_loss": tf.reduce_mean(termination),
  }
