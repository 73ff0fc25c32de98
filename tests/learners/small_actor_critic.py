"""An `ActorCritic` of a few units, and what its tests do with it."""

import numpy as np
import tensorflow as tf

from wm_tf import rng
from wm_tf.learners.actor_critic import ActorCritic, ActorCriticConfig

SEED = rng.make_seed(3)
NO_NOISE = tf.constant(0.0)
BASE = dict(
  batch_size=3,
  horizon=4,
  discount=0.9,
  entropy_scale=0.0,
  reward_scale=1.0,
  action_distribution="truncated_normal",
  actor_hidden_sizes=(8,),
  critic_hidden_sizes=(8,),
)


def make_learner(world, seed=0, **options):
  return ActorCritic(world, ActorCriticConfig(**BASE | options), seed, jit_compile=False)


def randomise(learner, scale=0.4):
  """Draws weights of some size, so that every layer matters."""
  generator = np.random.default_rng(0)
  for network in (learner.policy.network, learner.critic.network, learner._slow_critic):
    for weight in network.weights:
      weight.assign(generator.normal(0.0, scale, weight.shape))
  return learner


def flat(gradients):
  return np.concatenate([np.ravel(gradient) for gradient in gradients])


def drawn_noise(learner, starts, seed=SEED, scale=NO_NOISE):
  """Draws the noise of a dream from each start."""
  return learner._draw_noise(tf.nest.flatten(starts)[0].shape[0], seed, scale)
