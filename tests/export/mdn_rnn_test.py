"""Planners on real MDN-RNNs of mixed observations and of choices, exported and served."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from serving.client import GrpcActor
from serving.embedded import EmbeddedServer
from wm_tf import export
from wm_tf.agent import Agent, AgentActor
from wm_tf.envs import make_env
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_tf.models.vae import VAE, VAEConfig
from wm_tf.policies.planner import Planner, PlannerConfig


@pytest.mark.parametrize(
  "environment, options",
  [
    pytest.param("tests.envs.toys:DictEnv", {"frame_size": 32}, marks=pytest.mark.slow),
    ("tests.envs.toys:MultiDiscreteEnv", {}),
  ],
)
def test_served_planners_answer_as_in_this_process(tmp_path, environment, options):
  env = make_env(environment, **options)
  spec = env.spec_
  vae_config = VAEConfig(latent_size=4, encoder_filters=(4, 4, 4, 8), decoder_filters=(4, 4, 4))
  vae = VAE(vae_config, spec.observation)
  world = MDNRNN(
    vae,
    spec.action_size,
    MDNRNNConfig(hidden_size=6, num_mixtures=2),
    num_choices=spec.action_space.num_choices,
  )
  generator = np.random.default_rng(0)
  for variable in world.trainable_variables + vae.variables:
    variable.assign(np.abs(variable) + generator.normal(0.0, 0.1, variable.shape))
  planner = Planner(world, PlannerConfig(horizon=3, num_candidates=8, num_elites=3))
  agent = Agent(spec, world, planner)
  export.export_agent(agent, tmp_path / "planner")
  export.export_world_model(world, spec, tmp_path / "world_model")

  actors = [AgentActor(agent), export.load_agent(tmp_path / "planner")]
  with EmbeddedServer() as server:
    target = server.start({name: str(tmp_path / name) for name in ("planner", "world_model")})
    actors.append(GrpcActor(f"grpc://{target}/planner"))
    for actor in actors:
      actor.begin(1)
    observation, _ = env.reset(seed=0)
    for step in range(3):
      batch = tf.nest.map_structure(lambda x: x[None], observation)
      arguments = np.array([step == 0]), np.array([7]), [{}]
      expected, *others = [actor.act(batch, *arguments) for actor in actors]
      for found in others:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
      observation, *_ = env.step(expected[0])
  env.close()
  saved = export.SavedWorldModel(tmp_path / "world_model")
  state = export.first_states(saved, batch)
  tf.nest.assert_same_structure(saved.decode(state), batch)
  encode = tf.saved_model.load(str(tmp_path / "world_model" / "1")).signatures["encode"]
  assert set(encode.structured_outputs) == {"loc", "scale"}
