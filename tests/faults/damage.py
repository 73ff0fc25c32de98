"""Every file of a workdir with a byte flipped, cut short, or gone; finished runs and unfinished.

Of a finished run: `trainers.check` names the file; where it does not, the change must be without
meaning, or `trainers.quickstart` must make the run what it was. `--remove` and the same command
again make it what it was in any case.

Of an unfinished one: the command that goes on says what is wrong, naming the file; or it ends as it
would have; or it has no use for the file, and `trainers.check` names it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.faults.suite import Stage, Suite, Task
from tests.trainers.workdirs import contents, differences, is_log
from wm_tf import files
from wm_tf.runs import integrity
from wm_tf.training import checkpoints


def flip(path: Path, suite: Suite) -> None:
  """Changes one byte."""
  content = bytearray(path.read_bytes())
  place = suite.random.randrange(len(content))
  content[place] ^= suite.random.randrange(1, 256)
  path.write_bytes(content)


def truncate(path: Path, suite: Suite) -> None:
  """Cuts off the end, or all."""
  content = path.read_bytes()
  path.write_bytes(content[: suite.random.randrange(len(content))])


def delete(path: Path, suite: Suite) -> None:
  path.unlink()


_DAMAGES: tuple[Callable[[Path, Suite], None], ...] = (flip, truncate, delete)

# One file of each kind, to be mended by `--remove` and the same command.
_KINDS = (
  r"^data/000/shard",
  r"^data/001(_random)?/shard",
  r"^data/.*manifest\.json",
  r"^vae/000/(weights|metrics|fit)",
  r"^vae/001/",
  r"^latents/000/.*shard",
  r"^latents/.*manifest\.json",
  r"^dynamics/00./",
  r"^controller/00./",
  r"^export/(planner|controller)/.*(pb|variables|requests)",
  r"^(results|run|seconds)\.json",
  r"^(report\.html|figures/)",
)
_KINDS_A_ROUND = 4


def _names(workdir: Path) -> list[str]:
  paths = [path for path in workdir.rglob("*") if path.is_file() and path.stat().st_size]
  names = sorted(str(path.relative_to(workdir)) for path in paths)
  return [name for name in names if not is_log(name)]


def _apart(names: list[str]) -> list[list[str]]:
  """Groups with a file at most of each folder that has checksums of its own: none hides another."""
  depth = {"data": 2, "latents": 3, "vae": 2, "dynamics": 2, "controller": 2, "export": 3}
  groups: list[dict[str, str]] = []
  for name in names:
    parts = name.split("/")
    folder = "/".join(parts[: depth.get(parts[0], 0)])
    group = next((group for group in groups if folder not in group), None)
    if group is None:
      groups.append(group := {})
    group[folder] = name
  return [list(group.values()) for group in groups]


def _walk_finished(suite: Suite) -> None:
  workdir = suite.copy(suite.finished, "damaged")
  found = unchanged = 0
  silent = []
  names = _names(workdir)
  for damage in _DAMAGES:
    for group in _apart(names):
      sound = {name: (workdir / name).read_bytes() for name in group}
      for name in group:
        damage(workdir / name, suite)
      suite.count("damaged files", len(group))
      texts = [problem.text for problem in integrity.problems(workdir)]
      for name in group:
        path = workdir / name
        if _is_named(path, texts):
          found += 1
        elif damage is not delete and _reads_as(path, sound[name]):
          unchanged += 1
        else:
          silent.append((name, damage))
        path.write_bytes(sound[name])
  # What is not named, running on must mend: all of it at once.
  workdir = suite.copy(suite.finished, "damaged")
  for name, damage in silent:
    if (workdir / name).exists():
      damage(workdir / name, suite)
  suite.run("quickstart", workdir)
  what = ", ".join(f"{damage.__name__} {name}" for name, damage in silent)
  left = [problem.text for problem in integrity.problems(workdir)]
  suite.expect(not left, f"{what}: {left}")
  if suite.same(workdir, suite.stage("quickstart").contents, f"{what}, which check did not name"):
    suite.say(f"not named by check, and made again by running on: {what}")
  suite.say(
    f"{len(names)} files of a finished run, 3 kinds of damage: {found} named by check, "
    f"{unchanged} without meaning, {len(silent)} made again by running on"
  )


def _is_named(path: Path, texts: list[str]) -> bool:
  """Whether a file is spoken of; of sums, whether what they list is said not to be theirs."""
  if path.name == files.SUMS:
    return any(str(path.parent) in text and files.SUMS in text for text in texts)
  return any(str(path) in text for text in texts)


def _reads_as(path: Path, sound: bytes) -> bool:
  """Whether a file that is not named in spite of damage holds the same values as before."""
  try:
    if path.suffix == ".json":
      found = files.read_json(path)
      path.write_bytes(sound)
      return found == files.read_json(path)
    if path.suffix == ".npz":
      found = checkpoints.read_arrays(path)
      path.write_bytes(sound)
      expected = checkpoints.read_arrays(path)
      return found.keys() == expected.keys() and all(
        np.array_equal(found[key], expected[key]) for key in found
      )
  except (files.DamagedFileError, checkpoints.CorruptCheckpointError):
    return False
  return path.read_bytes() == sound


def _mend(suite: Suite) -> None:
  """Damages a file of several kinds at once, and has them made again."""
  kinds = list(_KINDS)
  suite.random.shuffle(kinds)
  for first in range(0, len(kinds), _KINDS_A_ROUND):
    workdir = suite.copy(suite.finished, "mended")
    names = []
    for kind in kinds[first : first + _KINDS_A_ROUND]:
      name = suite.random.choice([n for n in _names(workdir) if re.search(kind, n)])
      damage = suite.random.choice(_DAMAGES)
      damage(workdir / name, suite)
      names.append(f"{damage.__name__} {name}")
    what = ", ".join(names)
    suite.run("check", workdir, "--remove")
    suite.run("quickstart", workdir)
    left = [problem.text for problem in integrity.problems(workdir)]
    suite.expect(not left, f"{what}: mended, there is still {left}")
    if suite.same(workdir, suite.stage("quickstart").contents, f"{what}: mended"):
      suite.say(f"mended by check --remove and quickstart: {what}")
    suite.count("mended files", len(names))


class Half(NamedTuple):
  """Where a command is killed, so that there is something half done, and what is damaged then."""

  before: str  # The write.
  files: str
  damages: int  # Kinds of damage to each file; of fewer than three, chance chooses which.


_UNFINISHED = {
  "collect": Half("rename data/000/shard", r"^(run\.json|data/000/)", 2),
  "train_vae": Half("rename vae/000/fit.json", r"^vae/000/", 3),
  "train_dynamics": Half("rename dynamics/000/fit.json", r"^(dynamics/000|latents/000/000)/", 1),
  "train_controller": Half("rename controller/000/controller.npz", r"^controller/000/", 2),
  "export": Half("rename export/planner/1", r"^export/", 1),
  "quickstart": Half("rename results.json", r"^(results|seconds)\.json", 3),
}


def _walk_stage(suite: Suite, name: str) -> None:
  walk_unfinished(suite, suite.stage(name), _UNFINISHED[name])


def walk_unfinished(suite: Suite, stage: Stage, where: Half, *flags: str) -> None:
  """Damages every file of a command that was killed, one after another, and goes on.

  Args:
    suite: the suite.
    stage: the command when it was left alone, with its writes.
    where: the moment of the kill, and the files.
    *flags: of the command.
  """
  name = stage.name
  kill_at = [line for line in stage.writes if line.startswith(where.before)][-1]
  half = suite.copy(stage.before, "half")
  suite.run(name, half, *flags, kill_at=kill_at, expected=-9)
  named = ended = 0
  names = [n for n in _names(half) if re.search(where.files, n)]
  for file in names:
    for damage in suite.random.sample(_DAMAGES, where.damages):
      workdir = suite.copy(half, "half_damaged")
      path = workdir / file
      damage(path, suite)
      suite.count("damaged files")
      what = f"{damage.__name__} of {file}, half way through {name}"
      trainer = suite.start(name, workdir, *flags)
      if trainer.wait():
        if suite.is_clear(trainer.output, [str(path), str(path.parent)]):
          named += 1
        else:
          suite.fail(f"{what}: {trainer.output[-3000:]}")
      elif not (changed := differences(contents(workdir), stage.contents)):
        ended += 1
      elif any(str(path) in problem.text for problem in integrity.problems(workdir)):
        named += 1  # Nothing has read it yet.
      else:
        suite.fail(f"{what}: without a word, not as without it: {', '.join(changed)}")
  suite.say(
    f"{len(names)} files half way through {name}, {where.damages} kinds of damage: {named} named, "
    f"{ended} ended as without it"
  )


TASKS = {
  "finished": Task(_walk_finished, 35),
  "mended": Task(_mend, 50),
  **{f"half_{n}": Task(functools.partial(_walk_stage, name=n), 50) for n in _UNFINISHED},
}
