"""Online training: resumes exactly, on every kind of observation and action; refusals."""

import itertools
import json
import shutil

import numpy as np
import pytest

from tests.no_xla import no_xla
from wm_tf import config as config_lib
from wm_tf.core import Episode
from wm_tf.data import rollouts
from wm_tf.runs import online
from wm_tf.runs.online_data import has_signal
from wm_tf.runs.run import Run
from wm_tf.runs.workdir import WorkdirError
from wm_tf.training import checkpoints

_SMALL = (
  "family=rssm",
  "online.num_steps=200",
  "online.prefill=64",
  "online.pretrain_updates=3",
  "online.train_ratio=0.1",
  "online.decisions_per_round=7",
  "online.batch_size=2",
  "online.sequence_length=8",
  "online.evaluate_every=80",
  "online.evaluate_episodes=1",
  "online.checkpoint_every=3",
  "controller.actor_critic.batch_size=4",
  "controller.actor_critic.horizon=3",
  "environment_options.max_steps=30",
)
_LEARNER = tuple(
  setting
  for setting in config_lib.presets.DREAMER_LEARNER
  if "batch_size" not in setting and "horizon" not in setting
)


_ENVIRONMENT = "gym:CartPole-v1"


def _run(folder, environment=_ENVIRONMENT, *overrides, **options) -> Run:
  overrides = (*_LEARNER, *_SMALL, *overrides)
  return Run(folder, environment=environment, preset="debug", overrides=overrides, **options)


def _results(run: Run) -> dict:
  """Everything that a run learned, and the figures on the way."""
  metrics = (run.workdir / "online" / "metrics.jsonl").read_text().splitlines()
  rows = [{k: v for k, v in json.loads(row).items() if k != "time"} for row in metrics]
  return {
    "rows": rows,
    "weights": checkpoints.read_arrays(run.family.model_weights(0)),
    "controller": checkpoints.read_arrays(run.path("controller", 0) / "controller.npz"),
    "seeds": [info.seed for info in rollouts.load_manifest(run.path("data", 0)).episodes],
    "returns": [info.episode_return for _, info in rollouts.read_episodes(run.path("data", 0))],
  }


@pytest.fixture(autouse=True, scope="module")
def without_xla():
  """Other tests compile both parts."""
  with no_xla():
    yield


class _KilledError(Exception):
  pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
  """A run that nothing stopped; what was on disk after update 9 is beside it, in `after_9`."""
  run = _run(tmp_path_factory.mktemp("online") / "run")
  _train_and_copy(run, 9, run.workdir.parent / "after_9")
  return run


def _train_and_copy(run: Run, update: int, copy) -> None:
  """Trains, and copies the workdir after an update: what a kill at that moment would leave."""
  original, numbers = online.JointUpdate.run, itertools.count(1)

  def copying(*args):
    for found in original(*args):
      if next(numbers) == update:
        shutil.copytree(run.workdir, copy)
      yield found

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(online.JointUpdate, "run", copying)
    run.train()
  assert copy.exists() and (copy / "online" / "checkpoints").exists()


def test_learns_and_writes_what_a_run_of_iterations_has(finished):
  results = _results(finished)
  rows = results["rows"]
  assert [row["step"] for row in rows][-1] >= 200
  assert {"train/loss", "train/kl", "dream/return_mean", "dream/entropy"} <= set(rows[-2])
  assert [row["train/updates"] for row in rows if "train/updates" in row][-1] > 10
  policies = {info.policy for _, info in rollouts.read_episodes(finished.path("data", 0))}
  assert "controller_000" in policies and len(policies) > 1
  assert set(finished.quality("rssm", 0)) == {"reconstruction", "dynamics"}
  assert finished.best_iteration() == 0
  assert np.isfinite(finished.evaluate("planner", episodes=1)["mean"])
  finished.train()  # Done before.
  assert _results(finished)["rows"] == rows


@pytest.fixture(scope="module")
def unfinished(finished, tmp_path_factory) -> Run:
  """A run that was killed after update 9, and again when all was learned and nothing written."""
  folder = tmp_path_factory.mktemp("online") / "unfinished"
  shutil.copytree(finished.workdir.parent / "after_9", folder)
  run = _run(folder)
  with pytest.MonkeyPatch.context() as patch, pytest.raises(_KilledError):
    patch.setattr(checkpoints, "save_weights", _raise)
    run.train()
  return run


def test_a_run_that_was_killed_twice_ends_with_the_same_numbers(finished, unfinished, tmp_path):
  """A kill is a moment after which only files remain."""
  shutil.copytree(unfinished.workdir, tmp_path / "run")
  run = _run(tmp_path / "run")
  run.train()
  _check_same(run, finished)


def _check_same(run, other):
  found, expected = _results(run), _results(other)
  for name in ("rows", "seeds", "returns"):
    assert found[name] == expected[name]
  for name in ("weights", "controller"):
    for key, value in expected[name].items():
      np.testing.assert_array_equal(found[name][key], value, err_msg=key)


@pytest.mark.parametrize(
  ("lost", "message"),
  [
    ("data/000", "has fewer episodes than the checkpoint was"),
    ("online/best", "the best agent so far, is missing or damaged"),
  ],
)
def test_what_was_lost_is_named(unfinished, tmp_path, lost, message):
  shutil.copytree(unfinished.workdir, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / lost)
  with pytest.raises(WorkdirError, match=message):
    _run(tmp_path / "run").train()


def test_other_data_are_not_collected(tmp_path):
  run = _run(tmp_path / "run")
  with run, pytest.raises(config_lib.ConfigError, match="online training collects its own data"):
    run.collect(0)


@pytest.mark.slow
def test_recorded_episodes_are_enough(finished, tmp_path, monkeypatch):
  """Nothing is played; the number of updates is as stated; a killed call ends the same."""
  monkeypatch.setattr(online, "EnvPool", _raise)
  whole = _run(tmp_path / "run", _ENVIRONMENT, "online.collect=False")
  shutil.copytree(finished.path("data", 0), whole.path("data", 0))
  _train_and_copy(whole, 15, tmp_path / "killed")
  run = _run(tmp_path / "killed", _ENVIRONMENT, "online.collect=False")
  run.train()
  _check_same(run, whole)
  found = _results(run)
  assert found["seeds"] == _results(finished)["seeds"]
  updates = [row["train/updates"] for row in found["rows"] if "train/updates" in row]
  assert abs(updates[-1] - (3 + 0.1 * 200)) <= 2  # The last round may be longer.
  initial = _run(tmp_path / "new", _ENVIRONMENT).family.new_model().weights
  learned = run.world_model(0).weights
  assert any(np.any(a.numpy() != b.numpy()) for a, b in zip(initial, learned, strict=True))
  assert np.isfinite(run.validations()[0]["controller_in_environment"]["mean"])


@pytest.mark.parametrize(
  ("environment", "overrides", "message"),
  [
    ("gym:CartPole-v1", (), "learns from recorded episodes, and .*000 has none. Copy the data"),
    ("gym:Pendulum-v1", (), "actions of size 2 and .*Pendulum-v1 has actions of size 1"),
    (
      "gym:CartPole-v1",
      ("collect.held_out=0.999",),
      "0 steps to learn from, fewer than online.seq",
    ),
  ],
)
def test_recorded_episodes_that_do_not_fit(finished, tmp_path, environment, overrides, message):
  run = _run(tmp_path / "run", environment, "online.collect=False", *overrides)
  if "has none" not in message:
    shutil.copytree(finished.path("data", 0), run.path("data", 0))
  with pytest.raises(WorkdirError, match=message):
    run.train()


@pytest.mark.slow
def test_episodes_to_learn_from_can_be_collected_first(tmp_path, monkeypatch):
  """A first update is made on them; the test above has a whole training on recorded episodes."""
  run = _run(tmp_path / "run", _ENVIRONMENT, "online.collect=False", "collect.num_episodes=12")
  with run:
    run.collect(0)
  original, losses = online.JointUpdate.run, []

  def stopped(*args):
    losses.append(float(next(original(*args)).model["loss"]))
    raise _KilledError

  monkeypatch.setattr(online.JointUpdate, "run", stopped)
  with pytest.raises(_KilledError):
    run.train()
  assert np.isfinite(losses).all()


def _raise(*_):
  raise _KilledError


@pytest.mark.parametrize(
  ("environment", "least", "most"), [("gym:CartPole-v1", 64, 99), ("gym:MountainCar-v0", 100, 129)]
)
def test_exploration_goes_on_until_rewards_differ(tmp_path, monkeypatch, environment, least, most):
  """In MountainCar each step costs 1 up to the goal, which 30 steps do not reach."""
  found = []

  def stopped(_, played):
    found.append(sum(info.steps - 1 for _, info in played.episodes))
    raise _KilledError

  monkeypatch.setattr(online.OnlineData, "learn_from", stopped)
  with pytest.raises(_KilledError):
    _run(tmp_path / "run", environment).train()
  assert least <= found[0] <= most


@pytest.mark.parametrize(
  ("rewards", "terminated", "expected"),
  [
    ([-1, -1, 0], False, True),
    ([-1, -1, -1], False, False),
    ([-1, -1, -1], True, True),
    ([0, 0, 0], True, False),
    ([0, 0, 1], True, True),
  ],
)
def test_when_actions_can_be_told_apart(rewards, terminated, expected):
  columns = np.zeros([4, 1], np.float32), np.array([*rewards, 0.0], np.float32)
  last = np.array([False, False, False, True])
  episode = Episode(columns[0], *columns, ~last, last, last & terminated)
  assert has_signal([episode]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  ("environment", "overrides"),
  [
    ("tests.envs.toys:DictEnv", ()),
    ("tests.envs.toys:MultiDiscreteEnv", ("rssm.stochastic=gaussian",)),
    ("gym:CarRacing-v3", ("environment_options.max_steps=20", "online.num_steps=90")),
    (
      "gym:MountainCarContinuous-v0",
      (
        "controller.actor_critic.actor_gradient=dynamics",
        "online.patience=1",
      ),
    ),
  ],
)
def test_every_kind_of_environment(tmp_path, environment, overrides):
  (validation,) = _run(tmp_path / "run", environment, *overrides).train()
  assert np.isfinite(validation["controller_in_environment"]["mean"])


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["family=two_stage"], "online.num_steps=200 needs a jointly trained world model"),
    (["controller.method=es"], "needs controller.method=actor_critic, not es"),
    (["controller.actor_critic.reward_scale=None"], "needs controller.actor_critic.reward_scale"),
    (["online.prefill=31"], "online.prefill=31 and online.capacity=100000 must be at least 32"),
    (["online.capacity=31"], "online.prefill=64 and online.capacity=31 must be at least 32"),
    (["online.capacity=4"], "capacity=4 must be at least sequence_length=8"),
    (["online.train_ratio=0"], "train_ratio must be positive"),
    (
      ["environment=gym:Pendulum-v1", "controller.actor_critic.action_distribution=tanh_normal"],
      "needs a controller that explores by itself",
    ),
  ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, overrides, message):
  name = "gym:CartPole-v1"
  if overrides[0].startswith("environment="):
    name = overrides.pop(0).removeprefix("environment=")
  with pytest.raises(config_lib.ConfigError, match=message):
    _run(tmp_path / "run", name, *overrides)
  assert not (tmp_path / "run").exists()
