from __future__ import annotations

import numpy as np
import pytest

from serving.embedded import EmbeddedServer
from tests.export.exported import CONFIG, SPEC, Exports
from tests.export.gate import Gate
from wm_tf import export
from wm_tf.agent import Agent
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig
from wm_tf.models.vae import VAE, VAEConfig
from wm_tf.policies.linear import LinearController
from wm_tf.policies.planner import Planner, PlannerConfig


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
  vae = VAE(VAEConfig(latent_size=6, encoder_filters=(4, 4, 8, 8), decoder_filters=(8, 4, 4)))
  config = MDNRNNConfig(hidden_size=8, num_mixtures=2, head_hidden_size=4)
  world_model = MDNRNN(vae, SPEC.action_size, config)
  generator = np.random.default_rng(0)
  for variable in world_model.variables:  # Larger than at the start, so that everything matters.
    variable.assign(generator.normal(0.0, 0.3, variable.shape))
  world_model.latent_scale.assign(np.ones(6))
  world_model.change_scale.assign(np.ones(6))
  controller = LinearController(world_model)
  controller.parameters.assign(generator.normal(0.0, 0.5, controller.num_parameters))
  plan = PlannerConfig(horizon=4, num_candidates=8, num_iterations=2, num_elites=3)
  agents = {
    "controller": Agent(SPEC, world_model, controller),
    "planner": Agent(SPEC, world_model, Planner(world_model, plan, controller)),
  }
  path = tmp_path_factory.mktemp("exports")
  for name, agent in agents.items():
    assert export.export_agent(agent, path / name, config=CONFIG) == path / name / "1"
  export.export_world_model(world_model, SPEC, path / "world_model", config=CONFIG)
  return Exports(agents, world_model, path)


@pytest.fixture(scope="session")
def target(exports):
  """A server of all three; that it starts proves that the warmup requests are right."""
  with EmbeddedServer() as server:
    yield server.start({p.name: str(p) for p in exports.path.iterdir()})


@pytest.fixture(scope="session")
def gate(tmp_path_factory):
  with Gate(tmp_path_factory.mktemp("gate")) as gate:
    yield gate
