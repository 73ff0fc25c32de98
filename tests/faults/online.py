"""Online training: kills, damage half way, a full disk, and memory as the data grow."""

from __future__ import annotations

from tests.faults import damage, disks, kills
from tests.faults.suite import Stage, Suite, Task, numbers_after
from wm_tf import config

_SMALL = tuple(
  f"--override={text}"
  for text in (
    "environment=gym:CartPole-v1",
    "family=rssm",
    *config.presets.DREAMER_LEARNER,
    "controller.actor_critic.batch_size=8",
    "controller.actor_critic.horizon=4",
    "environment_options.max_steps=60",
    "online.prefill=100",
    "online.pretrain_updates=10",
    "online.batch_size=2",
    "online.sequence_length=8",
    "online.evaluate_every=200",
    "online.evaluate_episodes=2",
    "online.checkpoint_every=20",
  )
)
_FLAGS = (*_SMALL, "--override=online.num_steps=600", "--override=online.train_ratio=0.25")
_HALF = damage.Half("rename online/checkpoints", r"^(run\.json|data/000/|online/)", 2)
_STEPS, _TIMES, _ROOM = 3_000, 10, 1.10


def _undisturbed(suite: Suite) -> Stage:
  suite.xla = False  # Else compiling takes most of each of some forty starts.
  return kills.another(suite, "train_agent", _FLAGS)


def _kill(suite: Suite) -> None:
  suite.xla = False
  kills.kill(suite, "train_agent", 20, _FLAGS)


def _damage(suite: Suite) -> None:
  damage.walk_unfinished(suite, _undisturbed(suite), _HALF, *_FLAGS)


def _fill_disk(suite: Suite) -> None:
  disks.run(suite, _undisturbed, *_FLAGS)


def _grow(suite: Suite) -> None:
  """Ten times the steps in the same memory: the replay buffer is full in both."""
  peaks = []
  for times in (1, _TIMES):
    flags = (
      *_SMALL,
      f"--override=online.num_steps={_STEPS * times}",
      f"--override=online.capacity={_STEPS // 2}",
      f"--override=online.evaluate_every={_STEPS}",
      f"--override=online.train_ratio={0.2 / times}",
    )
    output = suite.run("train_agent", suite.copy(None, f"steps_{times}x"), *flags)
    (peak,) = numbers_after(output, r"(?m)^peak memory: (\d+) MB$") or [0.0]
    suite.expect(peak > 0, "train_agent did not say how much memory it took")
    peaks.append(peak)
  text = f"train_agent: {peaks[0]:.0f} MB with 1x the steps, {peaks[1]:.0f} MB with {_TIMES}x"
  if suite.expect(peaks[1] <= _ROOM * peaks[0], text):
    suite.say(text)


TASKS = {
  "kills": Task(_kill, 400, after=None),
  "damage": Task(_damage, 300, after=None),
  "disk": Task(_fill_disk, 60, after=None),
  "memory": Task(_grow, 120, after=None),
}
