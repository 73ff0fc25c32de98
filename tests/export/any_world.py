"""Small agents for any environment, whose every input matters, and their exports."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from wm_tf import export
from wm_tf.agent import Agent
from wm_tf.core import EnvSpec, Nest, ObservationSpec, Prediction
from wm_tf.envs import make_env
from wm_tf.models.world_model import WorldModel

# Each kind of observation and of action, and a limited, a renamed and a rendered environment.
ENVIRONMENTS: dict[str, dict] = {
  "gym:Pendulum-v1": {},
  "gym:CartPole-v1": {"action_repeat": 2, "frames_to_skip": 3},
  "tests.envs.toys:DictEnv": {"frame_size": 32},
  "tests.envs.toys:MultiDiscreteEnv": {},
  "tests.envs.toys:GrayEnv": {"frame_size": 32},
  "tests.envs.toys:AsymmetricEnv": {},
  "tests.envs.toys:SurvivalEnv": {"observation": "render", "frame_size": 32},
  "tests.envs.toys:MultiBinaryEnv": {},
}


def short_name(environment: str) -> str:
  """The name that an environment's agent is exported and served under."""
  return environment.rpartition(":")[2]


class AnyState(NamedTuple):
  seen: tf.Tensor  # float32[B, S], of the last observation
  moved: tf.Tensor  # float32[B, A], the sum of the actions since the first observation


class AnyWorld(WorldModel):
  """Keeps the last observation: a vector as it is, an image as 4 random projections of it."""

  def __init__(self, spec: EnvSpec):
    super().__init__(name="any_world")
    self.parts = spec.observation
    self.action_size, self.num_choices = spec.action_size, spec.action_space.num_choices
    self.sizes = [4 if part.kind == "image" else part.shape[0] for part in self.parts.parts]
    self.feature_size = self.latent_size = sum(self.sizes)
    generator = np.random.default_rng(0)
    self.projections = {
      part.name: self.add_weight(
        name=f"projection_{part.name}", shape=(int(np.prod(part.shape)), 4), trainable=False
      )
      for part in self.parts.images
    }
    for weight in self.weights:
      weight.assign(generator.normal(0.0, 1e-4, weight.shape))
    self.built = True

  def initial_state(self, batch_size):
    return AnyState(
      tf.zeros([batch_size, self.feature_size]), tf.zeros([batch_size, self.action_size])
    )

  def features(self, state):
    return state.seen

  def observe(self, state, prev_action, observation, is_first, seed):
    values = []
    for part, x in zip(self.parts.parts, self.parts.unpack(observation), strict=True):
      if part.kind == "image":
        flat = tf.reshape(tf.cast(x, tf.float32), [-1, int(np.prod(part.shape))])
        x = tf.linalg.matmul(flat, self.projections[part.name])
      values.append(x)
    moved = tf.where(is_first[:, tf.newaxis], 0.0, state.moved + prev_action)
    return AnyState(tf.concat(values, axis=-1), moved)

  def decode(self, state) -> Nest:
    values = []
    for part, x in zip(self.parts.parts, tf.split(state.seen, self.sizes, -1), strict=True):
      if part.kind == "image":
        x = tf.ones([1, *part.shape]) * tf.sigmoid(x[:, :1, tf.newaxis, tf.newaxis])
      values.append(x)
    return self.parts.pack(values)

  def imagine(self, state, action, seed, temperature=1.0) -> Prediction:
    moved = state.moved + action
    total = tf.reduce_sum(moved, axis=-1)
    return Prediction(AnyState(state.seen + 1.0, moved), total, tf.exp(-total), 0.0 * total)


class AnyPolicy:
  """A random linear policy that alternates its sign, counting in its memory."""

  def __init__(self, world: AnyWorld):
    generator = np.random.default_rng(1)
    self.kernel = tf.Variable(
      generator.normal(0.0, 1.0, (world.feature_size, world.action_size)).astype(np.float32)
    )

  def initial_memory(self, batch_size):
    return tf.ones([batch_size, 1])

  def act(self, state, memory, seed, explore=False):
    return tf.linalg.matmul(state.seen, self.kernel) * memory, -memory


def make_agent(spec: EnvSpec) -> Agent:
  world = AnyWorld(spec)
  return Agent(spec, world, AnyPolicy(world))


class Exported(NamedTuple):
  """Agents by short name of their environments, and the base path of their exports."""

  agents: dict[str, Agent]
  path: Path

  def agent_folder(self, name: str) -> Path:
    return self.path / name

  def world_folder(self, name: str) -> Path:
    return self.path / f"{name}_world"


def export_all(specs: dict[str, EnvSpec], path: Path, world_models: bool = True) -> Exported:
  """Exports an agent, and its world model if wanted, for each of the named environments."""
  exported = Exported({name: make_agent(spec) for name, spec in specs.items()}, path)
  for name, agent in exported.agents.items():
    export.export_agent(agent, exported.agent_folder(name))
    if world_models:
      export.export_world_model(agent.world_model, agent.spec, exported.world_folder(name))
  return exported


class Reference:
  """What an agent answers in this process: actions of its own and of the environment."""

  def __init__(self, agent: Agent):
    self.agent = agent

  def begin(self, rows: int) -> None:
    self.state = self.agent.initial_state(rows)

  def act(self, observation: Nest, is_first, seed=(0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """`(agent's actions float32[B, A], the environment's actions [B, ...])`."""
    space = self.agent.spec.action_space
    fresh = self.agent.initial_state(len(is_first))

    def restarted(new, old):
      return tf.where(tf.reshape(is_first, [-1] + [1] * (old.shape.rank - 1)), new, old)

    state = tf.nest.map_structure(restarted, fresh, self.state)
    observation = tf.nest.map_structure(tf.constant, observation)
    action, self.state = self.agent.act(observation, state, tf.constant(seed))
    canonical = space.canonical(action.numpy())
    if space.is_categorical:
      self.state = self.state._replace(prev_action=tf.constant(canonical))
    return canonical, np.stack([np.asarray(space.to_env(a)) for a in canonical])


def stacked(observations: list[Nest]) -> Nest:
  """A batch of single observations."""
  return tf.nest.map_structure(lambda *values: np.stack(values), *observations)


class Seen:
  """Two episodes side by side: what the environment shows, and what the agent sees of it."""

  def __init__(self, environment: str, steps: int = 4):
    options = ENVIRONMENTS[environment]
    self.native, self.agent = [], []
    envs = [make_env(environment, **options) for _ in range(2)]
    shown = [_shown(env) for env in envs]
    observations = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    generator = np.random.default_rng(0)
    for _ in range(steps):
      self.agent.append(stacked(observations))
      self.native.append(_batch(envs[0].spec_.observation, [x[-1] for x in shown]))
      size = envs[0].spec_.action_size
      action = generator.uniform(-1, 1, size).astype(np.float32)
      observations = [env.step(action)[0] for env in envs]


def _shown(env) -> list:
  """What an adapted environment's `native` returns, noted whenever it is asked."""
  noted, native = [], env.native

  def note(observation):
    noted.append(native(observation))
    return noted[-1]

  env.native = note
  return noted


def _batch(spec: ObservationSpec, shown: list):
  """A batch of native observations, as a client gives it."""
  values = []
  for part in spec.parts:
    found = shown
    for key in part.path:
      found = [x[key] for x in found]
    values.append(np.stack([np.asarray(x, part.native_dtype) for x in found]))
  return spec.pack(values)
