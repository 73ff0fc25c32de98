"""Ablations of a small real run: what is shared, what is anew, and the table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.workdirs import read_json, snapshot
from wm_tf import config as config_lib
from wm_tf.data import rollouts
from wm_tf.models.mdn_rnn import MDNRNN, MDNRNNConfig, MDNRNNState
from wm_tf.models.vae import VAE
from wm_tf.runs import ablation
from wm_tf.runs.run import Run, load_run
from wm_tf.runs.workdir import write_json

pytestmark = pytest.mark.timeout(1200)  # A machine that is busy with other things needs its time.


def _weights(path: Path) -> dict[str, np.ndarray]:
  with np.load(path) as archive:
    return dict(archive)


@pytest.mark.slow
def test_variants_share_data_and_vae_and_fit_the_rest_anew(launcher, finished, tmp_path):
  before, output = snapshot(finished), tmp_path / "out"
  names = ["all_data", "untrained_rnn", "z_only", "without_iteration"]
  flags = (f"--variants={','.join(names)}", "--episodes=2", f"--output={output}")
  killed = launcher.start(
    "trainers.ablate",
    *flags,
    f"--workdir={finished}",
    workdir=output,  # Says only where writes are watched.
    kill_at="rename z_only/seed0/controller/000/controller.npz",
  )
  assert killed.wait() < 0, killed.output
  table = read_json(output / "ablations.json")
  assert list(table) == ["as_it_is", *names[:2]]

  said = launcher.run("trainers.ablate", *flags, workdir=finished)
  assert "all_data, seed 0: done before." in said
  assert snapshot(finished) == before, "it may only read"
  resumed = read_json(output / "ablations.json")
  assert list(resumed) == ["as_it_is", *names]
  assert {name: resumed[name] for name in table} == table

  def folder(name):
    return output / name / "seed0"

  assert not (folder("z_only") / "dynamics").exists()  # That of all_data is its own too.
  assert not list(output.glob("*/seed0/vae")) and not list(output.glob("*/seed0/data"))
  controllers = {name: _weights(folder(name) / "controller/000/controller.npz") for name in names}
  assert [len(controllers[n]["parameters"]) for n in names] == [26, 26, 18, 26]  # (8 + 4 + 1) * 2.
  fitted, frozen = (
    _weights(folder(name) / "dynamics/000/weights.npz") for name in ("all_data", "untrained_rnn")
  )
  differs = {name: not np.array_equal(fitted[name], frozen[name]) for name in fitted}
  assert any(differs.values())
  kernels = [name for name in fitted if "lstm" in name and "recurrent_kernel" in name]
  assert kernels
  for name in kernels:  # Orthogonal as it was initialised; training does not keep it so.
    units = len(frozen[name])
    product = frozen[name] @ frozen[name].T
    np.testing.assert_allclose(product, np.eye(units), atol=1e-4)
    assert np.abs(fitted[name] @ fitted[name].T - np.eye(units)).max() > 1e-3

  # Of the run itself those of its best iteration: 6, and 2 more in each iteration after the first.
  as_it_is = 6 + 2 * load_run(finished).best_iteration()
  assert [resumed[name][0]["episodes"] for name in resumed] == [as_it_is, 8, 8, 8, 6]
  for rows in resumed.values():
    (row,) = rows
    assert row["in_environment"]["n"] == 2 and np.isfinite(row["dynamics"]["nll_per_dimension"])
  seeds = {tuple(rows[0]["in_environment"]["seeds"]) for rows in resumed.values()}
  assert len(seeds) == 1  # All drive the same tracks,
  validated = read_json(finished / "controller/000/validation.json")
  chosen_on = validated["controller_in_environment"]["seeds"]
  assert not set(chosen_on) & set(*seeds)  # on which none was chosen.

  markdown = (output / "ablations.md").read_text()
  assert markdown in said
  rows = [line.strip("| \n").split(" | ") for line in markdown.splitlines()]
  assert [row[0] for row in rows[2:]] == list(resumed) and len({len(row) for row in rows}) == 1


def test_a_table_over_several_fits():
  def row(mean, nll):
    return {
      "episodes": 350,
      "dynamics": {"nll_per_dimension": nll, "open_loop": {"10": None}, "reward_r2": 0.5},
      "in_model": {"mean": 400.0},
      "in_environment": {"mean": mean, "std": 90.0, "n": 16},
      "seconds": 120.0,
    }

  text = ablation.to_markdown({"z_only": [row(100.0, 1.0), row(200.0, 1.1)]})
  last = text.splitlines()[-1]
  assert re.search(
    r"\| 350 \| 1\.050 \| - \| 0\.50 \| 400 \| 150 ± 90 \(fits ± 71\) "
    r"\| 250 \(fits ± 71\) \|",
    last,
  )
  assert last.endswith("| 2 x 16 | 2 |")


def test_what_a_run_is_already_is_left_out(capsys):
  config = config_lib.make_config("debug")
  kept = ablation.applicable(config, list(ablation.VARIANTS))
  assert "per_dimension" not in kept and "joint" in kept
  other = config_lib.override(config, ["dynamics.mixture_kind=joint", "dynamics.num_mixtures=1"])
  kept = ablation.applicable(other, list(ablation.VARIANTS))
  assert "per_dimension" in kept and not {"joint", "one_normal"} & set(kept)
  assert "joint: left out, the run is so already." in capsys.readouterr().err
  for variant in ablation.VARIANTS.values():  # Every override is one of the configuration.
    config_lib.override(config, variant.overrides)


def test_rollouts_up_to_an_iteration_and_changes_of_every_variant(tmp_path):
  source = Run(tmp_path / "run", preset="debug")
  for iteration in range(3):
    source.path("controller", iteration).mkdir(parents=True)
    write_json(source.path("controller", iteration) / "validation.json", {"iteration": iteration})
    folder = source.path("data", iteration)
    folder.mkdir(parents=True)
    (folder / rollouts.MANIFEST).touch()
  changes = ["controller.start_anywhere=0.3", "dynamics.num_mixtures=7"]
  every, some = (
    ablation.Ablations(source, tmp_path / "a", 2),
    ablation.Ablations(source, tmp_path / "b", 2, last=1, changes=changes),
  )

  def folders(ablations, name):
    return ablations.variant_run(name, 0).data_folders(0)

  assert [len(folders(every, name)) for name in ("all_data", "without_iteration")] == [3, 1]
  assert [len(folders(some, name)) for name in ("all_data", "without_iteration")] == [2, 1]
  changed = some.variant_run("one_normal", 0).config
  assert changed.controller.start_anywhere == 0.3 and changed.dynamics.num_mixtures == 1
  assert some.variant_run("ensemble", 0).config.dynamics.num_mixtures == 7


def test_nothing_of_the_recurrent_state_is_seen():
  vae = VAE(config_lib.make_config("debug").vae)
  model = ablation.latent_only(MDNRNN)(vae, 2, MDNRNNConfig(hidden_size=3))

  def draw(size):
    return tf.random.stateless_normal([5, size], [0, size])

  features = model.features(MDNRNNState(draw(8), draw(3), draw(3))).numpy()
  np.testing.assert_allclose(features[:, :8], draw(8), rtol=1e-6)  # As it was, and zeros.
  assert features.shape == (5, 11) and not features[:, 8:].any()
