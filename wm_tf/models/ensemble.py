"""An ensemble of MDN-RNNs as one world model, whose disagreement measures its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Prediction
from wm_tf.models.heads import TerminationHead, make_reward_head
from wm_tf.models.kernels.ensemble_step import blend, make_ensemble_step
from wm_tf.models.kernels.stacked import StackedLSTM
from wm_tf.models.latent_dynamics import LatentDynamics, MDNRNNConfig
from wm_tf.models.mdn_rnn import MDNRNN, prediction_loss
from wm_tf.models.mixture_head import MixtureHead
from wm_tf.models.vae import VAE


def dynamics_class(config: MDNRNNConfig) -> type[LatentDynamics]:
  """Returns the class of a configuration: `MDNRNN`, or `Ensemble` for more than one member.

  Args:
    config: only `ensemble_size` is read.

  Returns:
    The subclass of `LatentDynamics`.
  """
  return MDNRNN if config.ensemble_size == 1 else Ensemble


class EnsembleState(NamedTuple):
  """`z` is the latent that all members share; `h` and `c` are each member's LSTM state."""

  z: tf.Tensor  # float32[B, Z]
  h: tf.Tensor  # float32[B, M, U]
  c: tf.Tensor  # float32[B, M, U]


class Ensemble(LatentDynamics):
  """M = `config.ensemble_size` MDN-RNNs that see the same data and learn independently.

  Members differ in their initial weights and in the posterior samples that they are trained on.
  Each imagined step follows one member, drawn at random (their mean at temperature 0). The reward
  and the discount are means over members.

  The disagreement of a step is the sum of two standard deviations over members: that of the mean
  latent (root mean square over dimensions) and that of the mean reward. Each is divided by the
  standard deviation of the data, so the disagreement has no unit.

  Attributes:
    reward_scale: standard deviation of the data's rewards, `float32[]`.
    usual_disagreement: 0.9 quantile of the disagreement on the data's steps, `float32[]`; 0
      until `disagreement.calibrate` has measured it.

  References:
    Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles", arXiv:1612.01474, section 2.4 (members that see all of the data).
    Chua et al. 2018, arXiv:1805.12114, section 5 (TS1: a member is drawn for each step).
    Kidambi et al. 2020, "MOReL", arXiv:2005.05951, section 4 (disagreement against exploitation).
  """

  def __init__(
    self,
    vae: VAE,
    action_size: int,
    config: MDNRNNConfig,
    num_choices: tuple[int, ...] = (),
    name: str = "ensemble",
  ):
    """Makes a model with new weights; see `MDNRNN`."""
    super().__init__(vae, action_size, config, num_choices, name)
    num_members, hidden_size = config.ensemble_size, config.hidden_size
    self.feature_size = self.latent_size + num_members * hidden_size
    input_size = self.latent_size + action_size
    self.lstm = StackedLSTM(num_members, hidden_size, name="lstm")
    self.lstm.build((num_members, None, None, input_size))
    self.mixture = MixtureHead(
      self.latent_size,
      config.num_mixtures,
      config.mixture_kind,
      hidden_size + (input_size if config.skip_connection else 0),
      num_members,
    )
    self.reward = make_reward_head(
      config.reward_bins, config.reward_limit, hidden_size, config.head_hidden_size, num_members
    )
    self.termination = TerminationHead(
      hidden_size, config.termination_positive_weight, config.head_hidden_size, num_members
    )
    self.reward_scale = self._statistic("reward_scale", 1.0, shape=())
    self.usual_disagreement = self._statistic("usual_disagreement", 0.0, shape=())
    self.built = True

  def _adapt_rewards(self, rewards):
    super()._adapt_rewards(rewards)
    self.reward_scale.assign(max(rewards.std(), 1e-3))

  def initial_state(self, batch_size) -> EnsembleState:
    """Returns a state of zeros. See `WorldModel.initial_state`."""
    hidden = tf.zeros([batch_size, self.config.ensemble_size, self.config.hidden_size])
    return EnsembleState(z=tf.zeros([batch_size, self.latent_size]), h=hidden, c=hidden)

  def features(self, state: EnsembleState) -> tf.Tensor:
    """Returns `[standardised z, h of every member]`, `float32[..., Z + M U]`.

    See `WorldModel.features`.
    """
    flat = tf.concat([tf.shape(state.h)[:-2], [self.feature_size - self.latent_size]], axis=0)
    return tf.concat([self.standardise(state.z), tf.reshape(state.h, flat)], axis=-1)

  def observe(self, state, prev_action, observation, is_first, seed=None) -> EnsembleState:
    """Steps every LSTM and takes `z` from the VAE's posterior mean; `seed` is not used.

    See `WorldModel.observe`.
    """
    h, c, _ = self.step(state, prev_action)
    h, c = (tf.where(is_first[:, tf.newaxis, tf.newaxis], 0.0, _swap(x)) for x in (h, c))
    loc, _ = self.posterior(observation)
    return EnsembleState(z=loc, h=h, c=c)

  def draw_noise(self, batch_size, num_steps, seed):
    """Draws the noise of `MDNRNN.draw_noise`, and `float32[B, num_steps, 1]` that picks members.

    See `WorldModel.draw_noise`.
    """
    choice_seed, normal_seed, member_seed = rng.split(seed, 3)
    shape = [batch_size, num_steps, self.latent_size]
    return (
      rng.uniform(shape, choice_seed),
      rng.normal(shape, normal_seed),
      rng.uniform([batch_size, num_steps, 1], member_seed),
    )

  def imagine_with_noise(self, state, action, noise, temperature=1.0) -> Prediction:
    """Steps every LSTM and samples from one member's mixture.

    See `WorldModel.imagine_with_noise`.
    """
    choice, normal, member = noise
    h, c, seen = self.step(state, action)
    samples = self.mixture.sample(seen, choice, normal, temperature)
    sample = blend(samples, self.member_shares(member, temperature))
    return self.prediction(state, sample, h, c, self.mixture.mean(seen))

  def imaginer(self):
    """Returns the step of `kernels/ensemble_step.py`. See `WorldModel.imaginer`."""
    return make_ensemble_step(self)

  def step(self, state: EnsembleState, action: tf.Tensor):
    """Steps every member's LSTM.

    Args:
      state: of B rows.
      action: `float32[B, A]`.

    Returns:
      The next `h` and `c`, each `float32[M, B, U]`, and the mixtures' inputs, `float32[M, B, ...]`.
    """
    inputs = self._for_each(self.inputs(state.z, action))
    h, c = self.lstm.step(inputs, _swap(state.h), _swap(state.c))
    return h, c, self.mixture_inputs(h, inputs)

  def member_shares(self, member: tf.Tensor, temperature=1.0) -> tf.Tensor:
    """Computes the weight of each member in a sample.

    Args:
      member: uniform `float32[B, 1]` in [0, 1) that picks one member.
      temperature: scalar or `float32[B]`; at 0 all members have equal weights.

    Returns:
      `float32[M, B]`, one-hot over members or `1 / M`.
    """
    num_members = self.config.ensemble_size
    index = tf.minimum(tf.cast(member[:, 0] * num_members, tf.int32), num_members - 1)
    temperature = tf.reshape(tf.cast(temperature, tf.float32), [-1])
    return tf.where(temperature > 0.0, tf.one_hot(index, num_members, axis=0), 1.0 / num_members)

  def prediction(self, state, sample, h, c, mean) -> Prediction:
    """Makes the `Prediction` of one step.

    Args:
      state: the state before the step, of B rows.
      sample: the sample of the mixture that is followed, `float32[B, Z]`.
      h: the members' next LSTM outputs, `float32[M, B, U]`.
      c: the members' next LSTM cells, `float32[M, B, U]`.
      mean: the mean of each member's mixture, `float32[M, B, Z]`.

    Returns:
      The `Prediction` of B rows.
    """
    reward = self.reward.mean(self.reward.network(h))
    return Prediction(
      state=EnsembleState(self.mover()(state.z, sample), _swap(h), _swap(c)),
      reward=tf.reduce_mean(reward, axis=0),
      discount=tf.reduce_mean(self.termination.discount(self.termination.network(h)), axis=0),
      disagreement=self._disagreement(mean, reward),
    )

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the sum of the members' losses and the means of their metrics. See `MDNRNN.loss`."""
    loc, log_scale = self.posterior(batch.observation)
    z = self._for_each(loc)
    if self.config.sample_latents:
      z += tf.exp(log_scale) * rng.normal(tf.shape(z), seed)
    action = self._for_each(batch.prev_action[:, 1:])
    return prediction_loss(self, z, self.inputs(z[:, :, :-1], action), batch)

  def _for_each(self, x: tf.Tensor) -> tf.Tensor:
    """Repeats `[...]` for every member, `[M, ...]`."""
    return tf.tile(x[tf.newaxis], [self.config.ensemble_size] + [1] * x.shape.rank)

  def _disagreement(self, mean: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
    """Returns `float32[B]` from the members' latents `[M, B, Z]` and rewards `[M, B]`."""
    unit = self.change_scale / self.latent_scale if self.config.predict_change else 1.0
    variance = tf.reduce_mean(tf.math.reduce_variance(mean * unit, axis=0), axis=-1)
    reward_variance = tf.math.reduce_variance(reward / self.reward_scale, axis=0)
    # The gradient of the root is infinite where members agree exactly.
    return tf.sqrt(variance + 1e-12) + tf.sqrt(reward_variance + 1e-12)


def _swap(x: tf.Tensor) -> tf.Tensor:
  """Transposes `[B, M, U]` to `[M, B, U]`, or back."""
  return tf.transpose(x, [1, 0, 2])
