"""Dreams by name: of a run's folder, and of an export."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env

import wm_tf  # noqa: F401  Registers the environment.
from tests.data.helpers import noise_episode, write_noise
from tests.envs import toys
from tests.worlds import randomize
from wm_tf import config as config_lib
from wm_tf import export
from wm_tf.data import datasets
from wm_tf.data.manifest import Manifest
from wm_tf.data.observations import ArraySpec
from wm_tf.dream_env import DreamVectorEnv
from wm_tf.envs.spaces import agent_space
from wm_tf.imagination import observe_sequence
from wm_tf.runs.dreams import load_dream
from wm_tf.runs.folder import read_description
from wm_tf.runs.learned import LearnedRun
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints

_NAME = "wm_tf/Dream-v0"


def _write_run(workdir: Path, environment: str = "car_racing", **overrides) -> Path:
  config = config_lib.make_config(
    "debug", [f"environment={environment}", *(f"{k}={v}" for k, v in overrides.items())]
  )
  workdir.mkdir(parents=True)
  described = {"config": config_lib.to_dict(config), "seed": 0}
  (workdir / "run.json").write_text(json.dumps(described))
  return workdir


def _run(workdir: Path) -> LearnedRun:
  return LearnedRun(workdir, *read_description(workdir / "run.json"))


def _header(run: LearnedRun) -> Manifest:
  """Of data of the run's environment."""
  parts = run.spec.observation
  arrays = {part.name: ArraySpec(part.shape, part.dtype) for part in parts.parts}
  header = Manifest({"name": "noise", "options": {}}, run.spec.action_space.size)
  if not parts.is_array:
    return header._replace(observation_dtype="", observation_parts=arrays)
  return header._replace(observation_shape=arrays[""].shape, observation_dtype=arrays[""].dtype)


def _make_run(workdir: Path, environment: str = "car_racing", **overrides) -> Path:
  """A run with data and random weights."""
  workdir = _write_run(workdir, environment, **overrides)
  run = _run(workdir)
  write_noise(workdir / "data/000", num_episodes=3, steps=5, header=_header(run))
  model = run.family.new_model()
  randomize(model, 0)
  for name in ("latent_scale", "change_scale", "reward_scale"):
    if hasattr(model, name):
      getattr(model, name).assign(np.ones(getattr(model, name).shape))
  checkpoints.save_weights(model, workdir / "dynamics/000/weights.npz")
  return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
  return _make_run(tmp_path_factory.mktemp("runs") / "run", **{"dynamics.ensemble_size": 2})


def test_by_name(workdir):
  env = gymnasium.make(_NAME, workdir=workdir, horizon=6, render_mode="rgb_array", num_starts=8)
  check_env(env.unwrapped)
  assert env.observation_space.shape == (8 + 2 * 16,)
  seen, _ = env.reset(seed=0)
  pixels = gymnasium.make(_NAME, workdir=str(workdir), observation="pixels", num_starts=8)
  np.testing.assert_array_equal(env.render(), pixels.reset(seed=0)[0])

  envs = gymnasium.make_vec(_NAME, num_envs=3, workdir=workdir, horizon=6, num_starts=8)
  assert isinstance(envs.unwrapped, DreamVectorEnv)
  np.testing.assert_allclose(envs.reset(seed=0)[0][0], seen, rtol=1e-5)
  action = np.full((3, 2), 0.3, np.float32)
  found, other = envs.step(action), env.step(action[0])
  np.testing.assert_allclose(found[0][0], other[0], atol=1e-4)
  np.testing.assert_allclose(found[1][0], other[1], rtol=1e-3)
  assert found[4]["disagreement"].min() > 0.01


def test_an_episode_is_as_long_as_the_environments(workdir):
  spec = _run(workdir).spec
  _, num_decisions = load_dream(workdir, num_starts=8)
  assert num_decisions == math.ceil((spec.max_steps - spec.frames_to_skip) / spec.action_repeat)


def test_one_dream_is_shared(workdir):
  one, other = (load_dream(workdir, num_starts=8)[0] for _ in range(2))
  assert one is other
  assert load_dream(workdir, num_starts=8, temperature=0.5)[0] is not one


def _states(run, steps) -> np.ndarray:
  """Features of every state of the data, burnt in: `float32[episodes, steps, F]`."""
  model = run.world_model(0)
  (batch,) = datasets.episodes_dataset(run.data_folders(0), batch_size=3, num_steps=steps)
  states = observe_sequence(model, batch, tf.constant([0, 0]))
  return model.features(states).numpy()


@pytest.mark.parametrize("starts", ["anywhere", "rewarded", "first"])
def test_dreams_begin_in_burnt_in_states_of_the_data(workdir, starts):
  run = _run(workdir)
  real = _states(run, 5)
  dream, _ = load_dream(workdir, starts=starts, num_starts=8)
  _, found = dream.begin(tf.range(dream.num_starts))
  distance = np.abs(found.numpy()[:, None, None] - real).max(-1)
  assert distance.min((1, 2)).max() < 1e-4
  steps = {int(row.min(0).argmin()) for row in distance}
  assert steps == {0} if starts == "first" else len(steps) > 2


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory) -> tuple[Path, Path]:
  """The world model of the run as a SavedModel, and a file of first frames."""
  run, folder = _run(workdir), tmp_path_factory.mktemp("exported")
  export.export_world_model(run.world_model(0), run.spec, folder / "world_model")
  frames = np.concatenate([noise_episode(seed, 1)[0].observation for seed in range(4)])
  np.save(folder / "frames.npy", frames)
  return folder / "world_model", folder / "frames.npy"


def test_of_an_export(workdir, exported):
  model = _run(workdir).world_model(0)
  frames = np.load(exported[1])
  options = dict(savedmodel=exported[0], frames=exported[1], horizon=3)
  env = gymnasium.make(_NAME, render_mode="rgb_array", **options)
  check_env(env.unwrapped)
  seen, _ = env.reset(seed=0)
  # The tensors of the state, by name: c, h, z.
  zeros = tf.zeros([4, 2])
  state = model.observe(model.initial_state(4), zeros, tf.constant(frames), tf.fill([4], True))
  every = tf.concat([tf.reshape(state[i], [4, -1]) for i in (2, 1, 0)], axis=-1).numpy()
  row = np.abs(every - seen).max(-1).argmin()
  np.testing.assert_allclose(seen, every[row], atol=1e-5)
  decoded = model.decode(tf.nest.map_structure(lambda x: x[row : row + 1], state))
  assert np.abs(env.render() - 255.0 * decoded.numpy()[0]).max() < 0.51
  envs = gymnasium.make_vec(_NAME, num_envs=2, **options)
  np.testing.assert_allclose(envs.reset(seed=0)[0][0], seen, atol=1e-5)
  action = np.full((2, 2), 0.4, np.float32)
  found = envs.step(action)
  np.testing.assert_allclose(found[0][0], env.step(action[0])[0], atol=1e-4)
  assert found[4]["disagreement"].min() > 0.01  # Exports of ensembles tell it.


@pytest.mark.parametrize(
  "kind",
  [
    "DictEnv",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("MultiDiscreteEnv", "GrayEnv")),
  ],
)
def test_any_environment_by_name_and_of_its_export(kind, tmp_path, monkeypatch):
  workdir = _make_run(tmp_path / "home" / "run", f"tests.envs.toys:{kind}")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  run = _run(workdir)
  observation, model = run.spec.observation, run.world_model(0)
  export.export_world_model(model, run.spec, workdir / "export")
  episodes = [noise_episode(seed, 1, _header(run))[0].observation for seed in range(4)]
  frames = tf.nest.map_structure(lambda *xs: np.concatenate(xs), *episodes)
  if kind == "MultiDiscreteEnv":  # As the environment shows them: choices.
    frames = np.array([[0, 3], [2, 0], [1, 1], [2, 2]])
  np.savez(workdir / "frames.npz", **(frames if isinstance(frames, dict) else {"any": frames}))
  for options in (
    {"workdir": "~/run", "num_starts": 8},
    {"savedmodel": "~/run/export", "frames": "~/run/frames.npz"},
    {"savedmodel": str(workdir / "export"), "frames": frames},
  ):
    options |= {"observation": "observation", "render_mode": "rgb_array"}
    env = gymnasium.make(_NAME, horizon=3, **options)
    check_env(env.unwrapped)
    assert env.observation_space == agent_space(observation)
    assert env.spec.id == _NAME and env.unwrapped._rows._horizon == 3
    env.action_space.seed(0)
    seen = env.reset(seed=0)[0]
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    assert env.render().shape[2] == 3
    with pytest.raises(ValueError, match=r"not finite|must be integers"):
      env.unwrapped.step(np.full(env.action_space.shape, np.nan))
    envs = gymnasium.make_vec(_NAME, num_envs=2, **options)
    tf.nest.map_structure(
      lambda one, other: np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1),
      envs.reset(seed=0)[0],
      seen,
    )
  native = getattr(toys, kind).action_space
  if run.spec.action_space.is_categorical:
    assert env.action_space == native


def test_first_observations_that_do_not_fit_are_named(exported, tmp_path):
  savedmodel, _ = exported
  frame = np.zeros((64, 64, 3), np.uint8)
  (tmp_path / "text.npy").write_text("no numbers")
  (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04" + bytes(60))
  for frames, message in (
    (frame, "frames=: observation has no batch dimension"),
    (np.zeros((2, 9, 9, 3), np.uint8), "frames=: observation is uint8"),
    (np.zeros((0, 64, 64, 3), np.uint8), "at least one, not"),
    (
      {"image": frame[None], "speed": np.zeros((2, 1))},
      r"image \[1, 64, 64, 3\] and speed \[2, 1\]",
    ),
    (tmp_path / "text.npy", r"text.npy is no .npy or .npz file"),
    (tmp_path / "broken.npz", r"broken.npz is no .npy or .npz file"),
  ):
    with pytest.raises(ValueError, match=message) as raised:
      gymnasium.make(_NAME, savedmodel=savedmodel, frames=frames)
    assert "\n" not in str(raised.value)
  with pytest.raises(FileNotFoundError, match=r"nowhere\.npy"):
    gymnasium.make(_NAME, savedmodel=savedmodel, frames=tmp_path / "nowhere.npy")


_ASYNC = """
import json
import sys
import gymnasium
import numpy as np
import wm_tf

def play(context, num_envs, options):
  envs = gymnasium.make_vec(
    "wm_tf/Dream-v0",
    num_envs=num_envs,
    vectorization_mode="async",
    vector_kwargs={"context": context},
    horizon=2,
    **options,
  )
  try:
    first, infos = envs.reset(seed=0)
    single = gymnasium.make("wm_tf/Dream-v0", horizon=2, **options)
    np.testing.assert_allclose(first[0], single.reset(seed=0)[0], rtol=1e-4, atol=1e-4)
    for _ in range(3):
      found = envs.step(envs.action_space.sample())
    return f"stepped {sorted(infos)} {found[1].dtype}"
  except RuntimeError as error:
    return f"refused {type(error).__name__} {error}"
  finally:
    envs.close(terminate=True)

if __name__ == "__main__":
  print(json.dumps([play(*args) for args in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def played(workdir, exported, tmp_path_factory) -> list[str]:
  """What comes of gymnasium's vector environment of processes, from a program of its own.

  Forked processes of a run's dream, and of an export's; then a spawned one.
  """
  script = tmp_path_factory.mktemp("played") / "play.py"
  script.write_text(_ASYNC)
  run = {"workdir": str(workdir), "num_starts": 8}
  saved = {"savedmodel": str(exported[0]), "frames": str(exported[1])}
  plays = [("fork", 2, run), ("fork", 2, saved), ("spawn", 1, run)]
  root = Path(__file__).resolve().parents[2]
  env = {**os.environ, "PYTHONPATH": str(root)}
  command = [sys.executable, script, json.dumps(plays)]
  done = subprocess.run(
    command, cwd=root, env=env, timeout=300, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_forked_process_is_refused(played):
  for output in played[:2]:
    assert "refused RuntimeError A dream cannot run in a process that was forked" in output
    assert "by default it steps all dreams" in output and "spawn" in output


@pytest.mark.slow
def test_a_spawned_process_dreams(played):
  assert played[2].startswith("stepped ['_disagreement', '_discount', '_imagined_reward'")


def test_a_process_forked_before_tensorflow_has_run_may_dream():
  script = """
import os, wm_tf, tensorflow as tf
for expected in (False, True):
  child = os.fork()
  if not child:
    try:
      wm_tf.check_not_forked()
      os._exit(0)
    except RuntimeError:
      os._exit(1)
  assert os.waitpid(child, 0)[1] == 256 * expected
  tf.constant(0)
"""
  subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_what_is_no_dream_is_named(workdir, tmp_path):
  with pytest.raises(WorkdirError, match="holds no run"):
    gymnasium.make(_NAME, workdir=tmp_path)
  empty = _write_run(tmp_path / "run")
  with pytest.raises(WorkdirError, match=r"no trained dynamics .* run trainers.train_dynamics"):
    gymnasium.make(_NAME, workdir=empty)
  with pytest.raises(WorkdirError, match=r"dynamics/003/weights.npz does not exist"):
    gymnasium.make(_NAME, workdir=workdir, iteration=3)
  with pytest.raises(FileNotFoundError, match="holds no SavedModel"):
    gymnasium.make(_NAME, savedmodel=tmp_path, frames=np.zeros((1, 64, 64, 3), np.uint8))
  for options, message in (
    ({}, "Say which dream"),
    ({"workdir": workdir, "savedmodel": workdir}, "Say which dream"),
    ({"savedmodel": workdir}, "needs frames="),
    ({"workdir": workdir, "frames": "a.npy"}, "frames= goes with savedmodel="),
    ({"workdir": workdir, "starts": "last"}, "starts must be one of"),
    ({"workdir": workdir, "num_starts": 0}, "num_starts must be a whole number of at least 1"),
    ({"workdir": workdir, "start_seed": -1}, "start_seed must be a whole number of at least 0"),
  ):
    with pytest.raises(ValueError, match=message):
      gymnasium.make(_NAME, **options)
