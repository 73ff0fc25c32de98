"""Several MDN-RNNs as one world model, which knows what it does not know."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.core import Batch, Prediction
from wm_tf.models.heads import MixtureHead, RewardHead, TerminationHead
from wm_tf.models.mdn_rnn import MDNRNN, LatentDynamics, MDNRNNConfig
from wm_tf.models.stacked import StackedLSTM
from wm_tf.models.vae import VAE


def dynamics_class(config: MDNRNNConfig) -> type[LatentDynamics]:
  """The world model that a configuration describes: one MDN-RNN, or an ensemble."""
  return MDNRNN if config.ensemble_size == 1 else Ensemble


class EnsembleState(NamedTuple):
  """`z` the latent of the current frame, in which all agree; `h`, `c` each member's summary."""

  z: tf.Tensor  # float32[B, Z]
  h: tf.Tensor  # float32[B, M, U]
  c: tf.Tensor  # float32[B, M, U]


class Ensemble(LatentDynamics):
  """M = `config.ensemble_size` MDN-RNNs that see the same and learn apart.

  Members differ in their initial weights and in the posterior samples that they learn from. Each
  step of a dream follows one of them, drawn anew (at temperature 0 their mean); the reward and the
  discount are means over them.

  The disagreement of a step is the standard deviation over members of the mean that each predicts:
  of the latent, in standard deviations of the data's, root mean squared over dimensions; plus that
  of the reward, in standard deviations of the data's. It has no unit.

  Attributes:
    reward_scale: standard deviation of the data's rewards, `float32[]`.
    usual_disagreement: 0.9 quantile of the disagreement about the data's steps, `float32[]`; 0
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
    self.reward = RewardHead(config.reward_bins, hidden_size, config.head_hidden_size, num_members)
    self.termination = TerminationHead(
      hidden_size, config.termination_positive_weight, config.head_hidden_size, num_members
    )
    self.reward_scale = self._statistic("reward_scale", 1.0, shape=())
    self.usual_disagreement = self._statistic("usual_disagreement", 0.0, shape=())
    self.built = True

  def adapt(self, batches) -> None:
    """As `MDNRNN.adapt`; and the scale of the rewards."""
    rewards = []

    def noted():
      for batch in batches:
        rewards.append(np.asarray(batch.reward)[np.asarray(batch.mask & ~batch.is_first)])
        yield batch

    super().adapt(noted())
    self.reward_scale.assign(max(np.concatenate(rewards).std(), 1e-3))

  def initial_state(self, batch_size) -> EnsembleState:
    zeros = lambda *shape: tf.zeros([batch_size, *shape])
    hidden = self.config.ensemble_size, self.config.hidden_size
    return EnsembleState(z=zeros(self.latent_size), h=zeros(*hidden), c=zeros(*hidden))

  def features(self, state: EnsembleState) -> tf.Tensor:
    """`[standardised z, h of every member]`, `float32[..., Z + M U]`."""
    flat = tf.concat([tf.shape(state.h)[:-2], [self.feature_size - self.latent_size]], axis=0)
    return tf.concat([self._standardise(state.z), tf.reshape(state.h, flat)], axis=-1)

  def observe(self, state, prev_action, observation, is_first, seed=None) -> EnsembleState:
    """As `WorldModel.observe`; deterministic (the posterior's mean), so `seed` is not used."""
    h, c = self._step(state, self._inputs(state.z, prev_action))
    reset = lambda x: tf.where(is_first[:, tf.newaxis, tf.newaxis], 0.0, _swap(x))
    loc, _ = self._posterior(observation)
    return EnsembleState(z=loc, h=reset(h), c=reset(c))

  def draw_noise(self, batch_size, num_steps, seed):
    choice_seed, normal_seed, member_seed = rng.split(seed, 3)
    shape = [batch_size, num_steps, self.latent_size]
    return (
      rng.uniform(shape, choice_seed),
      rng.normal(shape, normal_seed),
      rng.uniform([batch_size, num_steps, 1], member_seed),
    )

  def imagine_with_noise(self, state, action, noise, temperature=1.0) -> Prediction:
    return self._imagine(None, state, action, noise, temperature)

  def imaginer(self):
    return functools.partial(self._imagine, self.mixture.by_component())

  def _imagine(self, mixture, state, action, noise, temperature=1.0) -> Prediction:
    num_members = self.config.ensemble_size
    choice, normal, member = noise
    inputs = self._inputs(state.z, action)
    h, c = self._step(state, inputs)
    projected = self.mixture.projected(self._mixture_inputs(h, self._for_each(inputs)), mixture)
    index = tf.minimum(tf.cast(member[:, 0] * num_members, tf.int32), num_members - 1)
    share = tf.one_hot(index, num_members, axis=0)
    sample_of = lambda projected: self.mixture.sample_of(
      self.mixture.components(projected), choice, normal, temperature
    )
    number = tf.get_static_value(temperature)
    if number is not None and np.all(number > 0.0):  # Of the others nothing need be sampled.
      sample = sample_of([_blend(x, share) for x in projected])
    else:
      temperature = tf.reshape(tf.cast(temperature, tf.float32), [-1])
      share = tf.where(temperature > 0.0, share, 1.0 / num_members)
      sample = _blend(sample_of(projected), share)
    reward = self.reward.mean(self.reward.network(h))
    return Prediction(
      state=EnsembleState(self._mover()(state.z, sample), _swap(h), _swap(c)),
      reward=tf.reduce_mean(reward, axis=0),
      discount=tf.reduce_mean(self.termination.discount(self.termination.network(h)), axis=0),
      disagreement=self._disagreement(self.mixture.mean_of(projected), reward),
    )

  def loss(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """As `MDNRNN.loss`: the sum of the members' losses, and means of their metrics."""
    loc, log_scale = self._posterior(batch.observation)
    z = self._for_each(loc)
    if self.config.sample_latents:
      z += tf.exp(log_scale) * rng.normal(tf.shape(z), seed)
    action = self._for_each(batch.prev_action[:, 1:])
    return self._sequence_loss(z, self._inputs(z[:, :, :-1], action), batch)

  def _step(self, state: EnsembleState, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The next `h` and `c`, `float32[M, B, U]`, after inputs `float32[B, Z + A]`."""
    return self.lstm.step(self._for_each(inputs), _swap(state.h), _swap(state.c))

  def _for_each(self, x: tf.Tensor) -> tf.Tensor:
    """`[...]` to `[M, ...]`."""
    return tf.tile(x[tf.newaxis], [self.config.ensemble_size] + [1] * x.shape.rank)

  def _disagreement(self, mean: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
    """`float32[B]` of the members' predictions `[M, B, Z]` and `[M, B]`; see the class."""
    unit = self.change_scale / self.latent_scale if self.config.predict_change else 1.0
    variance = tf.reduce_mean(tf.math.reduce_variance(mean * unit, axis=0), axis=-1)
    reward_variance = tf.math.reduce_variance(reward / self.reward_scale, axis=0)
    # Where members agree wholly, the root has no gradient.
    return tf.sqrt(variance + 1e-12) + tf.sqrt(reward_variance + 1e-12)


def _blend(x: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
  """The sum over members of `x[M, B, ...]`, each with its share `float32[M, B]`: `[B, ...]`."""
  share = tf.reshape(share, [*share.shape[:1], -1] + [1] * (x.shape.rank - 2))
  return tf.reduce_sum(share * x, axis=0)


def _swap(x: tf.Tensor) -> tf.Tensor:
  """`[B, M, U]` to `[M, B, U]`, and back."""
  return tf.transpose(x, [1, 0, 2])
