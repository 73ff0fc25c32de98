"""Who may import whom: the rules, the BUILD files that state them, and proof that they bite.

The BUILD files name every source file and what its library imports; Bazel refuses circles. The
tests here hold that those deps are the actual imports, and that they are ones the rules allow.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# Through the link out of Bazel's sandbox: the rules are about the whole checkout.
_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = ("wm_tf", "trainers", "serving", "benchmarks", "examples", "tests")

_CORE, _RNG, _SEAM = "//wm_tf:core", "//wm_tf:rng", "//wm_tf/models:world_model"
_CHECKS, _FILES, _NESTS = "//wm_tf:checks", "//wm_tf:files", "//wm_tf:nests"
_REGISTRY, _TWO_HOT = "//wm_tf:registry", "//wm_tf:two_hot"
_NORMS = "//wm_tf:norms"
_HELPERS = {_CHECKS, _CORE, _FILES, _NESTS, _NORMS, _REGISTRY, _RNG, _TWO_HOT}
_ACTIONS = "//wm_tf:actions"
_BELOW_AGENT = {
  _CORE: set(),
  **{label: {_CORE} for label in _HELPERS - {_CORE}},
  "//wm_tf/envs": {_CORE, _REGISTRY},  # No TensorFlow.
  _ACTIONS: _HELPERS,
  "//wm_tf/search": {*_HELPERS, _ACTIONS},
  _SEAM: _HELPERS,
  "//wm_tf/models": {*_HELPERS, _SEAM},
  "//wm_tf/data": _HELPERS,
  "//wm_tf:imagination": {*_HELPERS, _SEAM},
  "//wm_tf/policies": {*_HELPERS, _ACTIONS, _SEAM, "//wm_tf/search", "//wm_tf:imagination"},
}
_BELOW_RUNS = _BELOW_AGENT | {
  label: {*_BELOW_AGENT, *above}
  for label, above in {
    "//wm_tf:agent": (),
    "//wm_tf/training": (),
    "//wm_tf/learners": ("//wm_tf:agent", "//wm_tf/training"),
    "//wm_tf/evaluation": ("//wm_tf:agent", "//wm_tf/learners"),
    "//wm_tf/export": ("//wm_tf:agent",),
    "//wm_tf:dream_env": (),
    "//wm_tf/report": (),
    "//wm_tf/config": ("//wm_tf/learners", "//wm_tf/training"),
  }.items()
}
# What each library of `wm_tf` may import; only `runs` imports `serving`, to serve what it exports.
_ALLOWED = _BELOW_RUNS | {"//wm_tf/runs": {*_BELOW_RUNS, "//serving"}}
# Only these may import what describes or makes a whole run.
_RUNS = {"//wm_tf/config": ("wm_tf/runs", "trainers"), "//wm_tf/runs": ("trainers",)}

# One home each, among wm_tf, trainers and serving.
_HOMES = {
  "absl.app": ("trainers/", "serving/"),
  "absl.flags": ("trainers/", "serving/"),
  "gym": (),
  "gymnasium": ("wm_tf/__init__.py", "wm_tf/dream_actions.py", "wm_tf/dream_env.py", "wm_tf/envs/"),
  "matplotlib": ("wm_tf/report/",),
  "tf_agents": ("wm_tf/learners/policy_gradients/",),
  "tqdm": ("wm_tf/training/loggers.py",),
  "vizdoom": ("wm_tf/envs/",),
}
_MAX_LINES = 400
_TENSORFLOW = ("tensorflow", "tensorflow_probability", "keras", "tf_agents")
_WITHOUT_TENSORFLOW = ("wm_tf/__init__.py", "wm_tf/core.py", "wm_tf/envs/", "wm_tf/registry.py")


class Target(NamedTuple):
  """A py_library, py_binary or test of a BUILD file."""

  label: str
  srcs: tuple[str, ...]
  deps: frozenset[str]


def _label(text: str, package: str) -> str:
  """The one spelling of a label: `//a/b:b` is `//a/b`, and `:c` is told its package."""
  folder, _, name = text.removeprefix("//").partition(":")
  folder = folder if text.startswith("//") else package
  return f"//{folder}" if not name or name == Path(folder).name else f"//{folder}:{name}"


def read_targets(root: Path) -> list[Target]:
  """Runs the BUILD files, which are Python, with functions that note what they are given."""
  targets = []
  builds = [build for folder in _FOLDERS for build in sorted((root / folder).rglob("BUILD"))]
  for build in builds:
    package = build.parent.relative_to(root).as_posix()

    def glob(include, exclude=(), folder=build.parent):
      found = {path for pattern in include for path in folder.glob(pattern)}
      found -= {path for pattern in exclude for path in folder.glob(pattern)}
      return sorted(path.relative_to(folder).as_posix() for path in found)

    def note(name, srcs=(), deps=(), package=package, **_):
      srcs = tuple(f"{package}/{src}" for src in srcs)
      deps = frozenset(_label(dep, package) for dep in deps)
      targets.append(Target(_label(f":{name}", package), srcs, deps))

    def note_tests(srcs, deps=(), note=note, **_):
      note("tests", srcs, [*deps, "//tests:helpers"])

    names = dict.fromkeys(["py_library", "py_binary"], note) | {"pytest_tests": note_tests}
    names |= dict.fromkeys(["load", "package", "exports_files"], lambda *_, **__: None)
    exec(compile(build.read_text(), build, "exec"), {**names, "glob": glob, "__builtins__": {}})
  return targets


def _reach(target: Target, targets: dict[str, Target]) -> set[str]:
  """The labels whose files Bazel lays beside a target's own."""
  found, todo = {target.label}, [*target.deps]
  while todo:
    label = todo.pop()
    if label not in found:
      found.add(label)
      todo += targets[label].deps if label in targets else ()
  return found


def _module_file(root: Path, module: str) -> str | None:
  """The file of one of our modules, relative to the root; None for anyone else's."""
  path = module.replace(".", "/")
  for file in (f"{path}.py", f"{path}/__init__.py"):
    if module.split(".")[0] in _FOLDERS and (root / file).is_file():
      return file
  return None


def imports(root: Path, file: str) -> Iterator[tuple[int, str]]:
  """Yields `(line, module)` for each import of a file, those inside functions included.

  `from a import b` yields `a.b`, whether or not `b` is a module.
  """
  for node in ast.walk(ast.parse((root / file).read_text(), file)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parents = Path(file).parts[: -node.level] if node.level else ()
      module = ".".join([*parents, *([node.module] if node.module else [])])
      yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def _within(module: str, package: str) -> bool:
  return f"{module}.".startswith(f"{package}.")


def _file_violations(root: Path, file: str) -> Iterator[str]:
  for line, module in imports(root, file):
    if file.startswith(("wm_tf/", "trainers/", "serving/")):
      for package, homes in _HOMES.items():
        if _within(module, package) and not file.startswith(homes):
          yield f"{file}:{line}: {package} has its one home in {homes}"
    tensorflow = any(_within(module, package) for package in _TENSORFLOW)
    if tensorflow and file.startswith(_WITHOUT_TENSORFLOW):
      yield f"{file}:{line}: no TensorFlow here"
    if _within(module, "tensorflow.keras") or _within(module, "tf_keras"):
      yield f"{file}:{line}: `import keras`, never tf.keras"
  text = (root / file).read_text()
  if file.startswith(("wm_tf/", "trainers/", "serving/")) and text.count("\n") > _MAX_LINES:
    yield f"{file}: has more than {_MAX_LINES} lines"
  for node in ast.walk(ast.parse(text, file)):
    if isinstance(node, ast.Attribute) and ast.unparse(node) in ("tf.keras", "tensorflow.keras"):
      yield f"{file}:{node.lineno}: `import keras`, never tf.keras"
    if file.startswith("wm_tf/") and _traced_by_autograph(node):
      yield f"{file}:{node.lineno}: tf.function takes autograph=False, which traces twice as fast"


def _traced_by_autograph(node: ast.AST) -> bool:
  """Whether a call or a decorator makes a `tf.function` without `autograph=False`."""
  if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
    return any(ast.unparse(decorator) == "tf.function" for decorator in node.decorator_list)
  if not isinstance(node, ast.Call):
    return False
  called = [node.func, *(node.args[:1] if ast.unparse(node.func).endswith("partial") else [])]
  named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
  return "tf.function" in map(ast.unparse, called) and named.get("autograph") != "False"


def _allowed(importer: str, imported: str) -> bool:
  folder = importer[2:].split("/")[0].split(":")[0]
  other = imported[2:].split("/")[0].split(":")[0]
  if importer == imported or folder == "tests":
    return True
  if imported in _RUNS:
    return importer[2:].startswith(_RUNS[imported])
  if folder == "wm_tf":
    return imported in _ALLOWED.get(importer, ())
  return other in {
    "trainers": ("trainers", "serving", "wm_tf"),
    "serving": ("serving",),
    "benchmarks": ("benchmarks", "serving", "wm_tf"),
  }.get(folder, ())


def violations(root: Path) -> list[str]:
  """Every breach of the rules in a tree, one sentence each."""
  found = []
  targets = read_targets(root)
  labels = {target.label: target for target in targets}
  owners: dict[str, str] = {}
  for target in targets:
    for file in target.srcs:
      if file in owners:
        found.append(f"{file}: in both {owners[file]} and {target.label}")
      owners[file] = target.label

  files = [path for folder in _FOLDERS for path in sorted((root / folder).rglob("*.py"))]
  for file in (path.relative_to(root).as_posix() for path in files):
    found += _file_violations(root, file)
    if file not in owners:
      found.append(f"{file}: in no target of a BUILD file")

  for target in targets:
    used = {_CORE}  # The home of wm_tf/__init__.py.
    loose = target.label.startswith(("//tests", "//benchmarks"))
    reach = _reach(target, labels) if loose else {target.label, *target.deps}
    for file in target.srcs:
      for line, module in imports(root, file):
        imported = _module_file(root, module) or _module_file(root, module.rpartition(".")[0])
        owner = owners.get(imported, target.label)
        used.add(owner)
        if not _allowed(target.label, owner):
          found.append(f"{file}:{line}: {target.label} may not import {owner}")
        elif owner not in reach:
          found.append(f"{file}:{line}: {target.label} lacks {owner} in its deps")
    for dep in sorted(target.deps):
      if not _allowed(target.label, dep):
        found.append(f"{target.label}: may not depend on {dep}")
      elif dep not in used and not loose:
        found.append(f"{target.label}: imports nothing of its dep {dep}")
  return found


def test_the_tree_keeps_the_rules():
  found = violations(_ROOT)
  assert not found, "\n".join(found)


def test_every_layer_is_a_library():
  labels = {target.label for target in read_targets(_ROOT)}
  assert set(_ALLOWED) <= labels


def test_environments_and_their_workers_load_without_tensorflow():
  files = [path.relative_to(_ROOT) for path in (_ROOT / "wm_tf/envs").rglob("*.py")]
  envs = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
  modules = ["wm_tf.data.env_worker", *envs]
  code = f"import sys, {', '.join(modules)}; sys.exit('tensorflow' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)


# A tree that keeps the rules, small.
_TREE = {
  "wm_tf/BUILD": """
load("@rules_python//python:defs.bzl", "py_library")
py_library(name = "core", srcs = ["__init__.py", "core.py"])
py_library(name = "rng", srcs = ["rng.py"], deps = [":core"])
""",
  "wm_tf/config/BUILD": """
py_library(name = "config", srcs = ["__init__.py"], deps = ["//wm_tf/envs:envs"])
""",
  "wm_tf/__init__.py": "",
  "wm_tf/core.py": "import numpy",
  "wm_tf/rng.py": "import tensorflow as tf",
  "wm_tf/config/__init__.py": "from wm_tf import envs",
  "wm_tf/envs/BUILD": """
py_library(name = "envs", srcs = glob(["*.py"]), deps = ["//wm_tf:core"])
""",
  "wm_tf/envs/__init__.py": "def make_env():\n  import gymnasium\n  from wm_tf.envs import car",
  "wm_tf/envs/car.py": "from .. import core",
  "wm_tf/search/BUILD": """
py_library(name = "search", srcs = glob(["*.py"]), deps = ["//wm_tf:core"])
""",
  "wm_tf/search/__init__.py": "from wm_tf.core import Nest",
  "trainers/BUILD": """
[py_binary(name = f[:-3], srcs = [f], deps = ["//wm_tf/config"]) for f in glob(["*.py"])]
""",
  "trainers/train.py": "from absl import app\nfrom wm_tf import config",
  "examples/BUILD": 'py_library(name = "examples", srcs = glob(["*.py"]))',
  "examples/drive.py": "import gymnasium",
  "serving/BUILD": 'py_library(name = "serving", srcs = glob(["*.py"]))',
  "serving/server.py": "from absl import flags\nimport tensorflow as tf",
}


def _plant(root: Path, changes: dict[str, str]) -> None:
  for file, text in (_TREE | changes).items():
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)


def test_a_tree_that_keeps_the_rules_passes(tmp_path):
  _plant(tmp_path, {})
  assert violations(tmp_path) == []


@pytest.mark.parametrize(
  ("file", "text", "complaint"),
  [
    ("wm_tf/core.py", "from wm_tf import rng", "//wm_tf:core may not import //wm_tf:rng"),
    ("wm_tf/core.py", "import tensorflow", "no TensorFlow here"),
    ("wm_tf/envs/car.py", "from keras import ops", "no TensorFlow here"),
    ("wm_tf/envs/car.py", "from wm_tf import rng", "may not import //wm_tf:rng"),
    ("wm_tf/envs/car.py", "from ..search import x", "//wm_tf/envs may not import //wm_tf/search"),
    ("wm_tf/envs/car.py", "def f():\n  import wm_tf.config", ":2: //wm_tf/envs may not import"),
    ("wm_tf/search/es.py", "import gymnasium.spaces", "gymnasium has its one home"),
    ("wm_tf/search/es.py", "from wm_tf import rng", "lacks //wm_tf:rng in its deps"),
    ("wm_tf/search/es.py", "from absl import flags", "absl.flags has its one home"),
    ("wm_tf/search/es.py", "from tqdm import tqdm", "tqdm has its one home"),
    ("wm_tf/search/es.py", "from tf_agents import agents", "tf_agents has its one home"),
    ("wm_tf/search/es.py", "import tensorflow as tf\ntf.keras.Model", "never tf.keras"),
    ("wm_tf/search/es.py", "from tensorflow.keras import layers", "never tf.keras"),
    ("wm_tf/search/es.py", "@tf.function\ndef f(): pass", "tf.function takes autograph=False"),
    ("wm_tf/search/es.py", "f = tf.function(g, jit_compile=True)", "tf.function takes autograph"),
    ("wm_tf/search/es.py", "x = 1\n" * 401, "wm_tf/search/es.py: has more than 400 lines"),
    ("trainers/train.py", "import matplotlib.pyplot as plt", "matplotlib has its one home"),
    ("trainers/train.py", "", "//trainers:train: imports nothing of its dep //wm_tf/config"),
    ("serving/server.py", "from wm_tf import core", "//serving may not import //wm_tf:core"),
    ("examples/drive.py", "from serving import server", "//examples may not import //serving"),
    ("benchmarks/speed.py", "", "benchmarks/speed.py: in no target"),
    (
      "wm_tf/search/BUILD",
      'py_library(name = "search", srcs = glob(["*.py"]), deps = ["//wm_tf/envs:envs"])',
      "//wm_tf/search: may not depend on //wm_tf/envs",
    ),
  ],
)
def test_a_planted_breach_is_found(tmp_path, file, text, complaint):
  _plant(tmp_path, {file: text})
  found = violations(tmp_path)
  assert any(complaint in sentence for sentence in found), found
