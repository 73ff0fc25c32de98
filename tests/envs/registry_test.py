"""Environments by name: finding, options, what a factory says more, and worker processes."""

import functools
import sys

import gymnasium as gym
import numpy as np
import pytest

from tests.envs import toys
from tests.envs.toy import Counter, ToyEnv
from wm_tf import envs
from wm_tf.data.env_pool import EnvPool
from wm_tf.envs import registry
from wm_tf.envs.adapter import AdaptedEnv, PixelEnv


@pytest.fixture
def names(monkeypatch):
  """Lets a test register names that are forgotten after it."""
  monkeypatch.setattr(registry._registry, "_items", dict(registry._registry._items))


def test_a_new_environment_is_registered_and_made_by_name(names):
  envs.register_env("toy", ToyEnv)
  assert "toy" in envs.env_names()
  env = envs.make_env("toy", action_repeat=2)
  assert env.spec_.action_repeat == 2 and env.reset(seed=0)[0].shape == (64, 64, 3)
  assert envs.env_spec("toy", max_steps=9).max_steps == 9
  with pytest.raises(ValueError, match="taken"):
    envs.register_env("toy", Counter)


@pytest.mark.parametrize(
  ("name", "factory", "message"),
  [
    ("a:b", ToyEnv, "contains a colon"),
    ("toy", "ToyEnv", "package.module:Factory"),
    ("toy", 3, "something to be called"),
  ],
)
def test_names_and_factories_that_cannot_work_are_refused(names, name, factory, message):
  with pytest.raises(ValueError, match=message):
    envs.register_env(name, factory)


def test_a_name_may_stand_for_a_gymnasium_id_or_a_path(names):
  envs.register_env("pendulum", "gym:Pendulum-v1")
  envs.register_env("gray", "tests.envs.toys:GrayEnv")
  spec = envs.make_env("pendulum", g=9.0).spec_
  assert (spec.name, spec.env_id) == ("pendulum", "Pendulum-v1")
  assert envs.env_spec("gray").observation.images


def test_factories_of_any_kind_are_adapted_with_their_own_options():
  env = envs.make_env("tests.envs.toys:SurvivalEnv", length=7, action_repeat=3)
  assert isinstance(env, AdaptedEnv) and env.env.length == 7 and env.spec_.action_repeat == 3
  assert env.spec_.name == "tests.envs.toys:SurvivalEnv" and env.spec_.env_id == "SurvivalEnv"
  assert isinstance(envs.make_env("tests.envs.toy:ToyEnv"), ToyEnv)


def test_a_function_that_passes_options_on(names):
  envs.register_env("plain", lambda **options: toys.GrayEnv(**options))
  env = envs.make_env("plain", length=3, frame_size=32)
  assert env.env.length == 3 and env.observation_space.shape == (32, 32, 1)
  envs.register_env("adapted", lambda **options: PixelEnv(Counter(), ToyEnv.make_spec(**options)))
  assert envs.env_spec("adapted", action_repeat=3).action_repeat == 3
  envs.register_env("repeats", lambda action_repeat=5: toys.GrayEnv(action_repeat))
  assert envs.make_env("repeats", action_repeat=9).env.length == 9


def test_what_is_no_environment_is_refused(names):
  envs.register_env("text", lambda: "text")
  with pytest.raises(ValueError, match=r"returned 'text', which is not a gymnasium.Env"):
    envs.make_env("text")
  with pytest.raises(ValueError, match=r"toys:NAMES' is \(.*not something to be called"):
    envs.make_env("tests.envs.toys:NAMES")
  with pytest.raises(ValueError, match="given by name, not as None"):
    envs.make_env(None)


@pytest.mark.parametrize("make", [envs.make_env, envs.env_spec, envs.make_heuristic, envs.resolve])
def test_an_unknown_name_names_the_nearest(make):
  with pytest.raises(ValueError, match=r"'car_race'.*car_racing"):
    make("car_race")
  with pytest.raises(ValueError, match=r"car_racing_3d.*gym:CartPole-v1"):
    make("CartPole-v1")
  with pytest.raises(ValueError, match=r"'DictEn'.*DictEnv"):
    registry.factory_of("tests.envs.toys:DictEn")


@pytest.mark.parametrize("make", [envs.make_env, envs.env_spec])
@pytest.mark.parametrize("name", ["car_racing", "gym:Pendulum-v1", "tests.envs.toys:DictEnv"])
def test_an_option_that_is_not_taken_is_named_with_those_that_are(make, name):
  with pytest.raises(ValueError, match=r"does not take the option 'acton_repeat'; did you mean"):
    make(name, acton_repeat=2)
  with pytest.raises(ValueError, match=rf"'{name}' does not take the option 'zz'.* action_repeat"):
    make(name, zz=2)


def test_an_option_that_a_function_passes_on_in_vain_is_named(names):
  envs.register_env("plain", lambda **options: toys.GrayEnv(**options))
  with pytest.raises(ValueError, match="'plain' does not take the option 'zz'"):
    envs.make_env("plain", zz=2)
  with pytest.raises(ValueError, match="scripted policy of 'car_racing' does not take"):
    envs.make_heuristic("car_racing", zz=2)


def test_an_error_inside_an_environment_keeps_its_own_words(names):
  def broken(size=3):
    return len(size)

  envs.register_env("broken", broken)
  with pytest.raises(TypeError, match=r"has no len\(\)"):
    envs.make_env("broken", size=4)


def test_what_only_some_environments_have():
  assert envs.has_heuristic("car_racing") and not envs.has_heuristic("gym:Pendulum-v1")
  with pytest.raises(ValueError, match="no scripted policy"):
    envs.make_heuristic("gym:Pendulum-v1")
  assert envs.training_options("car_racing_3d") == {"random_start", "stop_after_idle_decisions"}
  assert envs.training_options("gym:Pendulum-v1") == frozenset()
  assert envs.recipe("gym:Pendulum-v1") == {}
  assert "collect.random_start=0.5" in envs.recipe("car_racing")["default"]


def test_try_env_finds_what_spaces_do_not_say(names):
  class Wrong(toys.GrayEnv):
    def observe(self):
      return super().observe()[1:]

  assert envs.try_env("tests.envs.toys:DictEnv").action_size == 1
  envs.register_env("wrong", Wrong)
  with pytest.raises(ValueError, match=r"wrong: at frame 0.*\(20, 24\).*\(19, 24\)"):
    envs.try_env("wrong")


def _play(factory):
  """Plays three decisions in a worker process; returns its spec and what it showed."""
  with EnvPool(factory, 1) as pool:
    pool.reset(0, np.int64(3))
    shown = [pool.poll()[0][1]]
    for _ in range(3):
      pool.step(0, np.zeros(pool.spec.action_size, np.float32))
      shown.append(pool.poll()[0][1])
    return pool.spec, shown


@pytest.mark.parametrize(
  ("factory", "options"),
  [
    (toys.DictEnv, {"length": 2, "frame_size": 32}),
    ("tests.envs.toys:DictEnv", {"length": 2, "frame_size": 32}),
    (functools.partial(toys.DictEnv, length=2), {"frame_size": 32}),
    ("gym:Acrobot-v1", {"max_steps": 2}),
  ],
)
def test_a_registered_name_works_in_a_worker(names, factory, options):
  envs.register_env("mine", factory)
  make_env_fn = envs.env_factory("mine", action_repeat=1, **options)
  assert make_env_fn.keywords == {"action_repeat": 1, **options}
  spec, shown = _play(make_env_fn)
  np.testing.assert_equal(spec._asdict(), envs.env_spec("mine", **options)._asdict())
  assert spec.name == "mine"
  assert [answer.truncated for answer in shown[:3]] == [False, False, True]
  env = envs.make_env("mine", **options)
  np.testing.assert_equal(shown[0].observation, env.reset(seed=3)[0])


def test_an_id_that_this_process_registered_works_in_a_worker(monkeypatch):
  monkeypatch.setattr(gym.envs.registration, "registry", gym.registry.copy())
  monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
  gym.register("Mine-v0", "tests.envs.toys:SurvivalEnv", max_episode_steps=2)
  spec, shown = _play(envs.env_factory("gym:Mine-v0", length=50))
  assert (spec.env_id, spec.max_steps) == ("Mine-v0", 2)
  assert shown[2].truncated


def test_what_a_worker_cannot_import_is_refused_at_once(names, monkeypatch):
  class Local(toys.GrayEnv):
    pass

  def main_function():
    return toys.GrayEnv()

  monkeypatch.setattr(sys.modules["__main__"], "main_function", main_function, raising=False)
  main_function.__module__, main_function.__qualname__ = "__main__", "main_function"
  for name, factory in (("a", lambda: toys.GrayEnv()), ("b", Local), ("c", main_function)):
    envs.register_env(name, factory)
    envs.make_env(name)
    with pytest.raises(ValueError, match=f"'{name}' cannot be built in worker.*module:Factory"):
      envs.env_factory(name)
