"""Verdicts follow from figures."""

import pytest

from tests.report.pages import RESULTS, changed
from wm_tf import report
from wm_tf.report import verdicts


def _verdict(results, name):
  found = [c for c in report.checks(results) if name in c.name]
  assert len(found) == 1
  return found[0]


@pytest.mark.parametrize(
  ("section", "changes", "name", "verdict"),
  [
    ("vae", {"sse": 19.0}, "SSE", "good"),
    ("vae", {"sse": 90.0}, "SSE", "usable"),  # Less than half of the mean image's.
    ("vae", {"sse": 150.0}, "SSE", "poor"),
    ("vae", {"sse": 10.0, "sse_mean_image": 9.0}, "SSE", "poor"),  # Worse than one image.
    ("vae", {"sse": float("nan")}, "SSE", "poor"),
    ("vae", {"sse": None}, "SSE", "not run"),
    ("vae", {"active_dimensions": 8}, "active", "usable"),
    ("vae", {"active_dimensions": 0}, "active", "poor"),
    ("vae", {}, "KL", "no verdict"),
    ("dynamics", {"nll_per_dimension": -0.5}, "likelihood", "good"),
    ("dynamics", {"nll_per_dimension": 1.38}, "likelihood", "usable"),
    ("dynamics", {"nll_per_dimension": 1.42}, "likelihood", "poor"),
    ("dynamics", {"one_step_error": 0.6}, "one-step", "usable"),
    ("dynamics", {"one_step_error": 0.68}, "one-step", "poor"),
    ("dynamics", {"persistence_error": None}, "one-step", "not run"),
    ("dynamics", {}, "open loop", "good"),
    ("dynamics", {"open_loop": {"1": 0.4, "5": 0.6, "10": 9.0, "20": 0.1}}, "open loop", "usable"),
    ("dynamics", {"open_loop": {"1": 0.7}}, "open loop", "poor"),
    ("dynamics", {"open_loop": {}}, "open loop", "not run"),
    ("dynamics", {}, "R²", "good"),
    ("dynamics", {"reward_r2": -3.0}, "R²", "poor"),
    ("dynamics", {}, "reward, AUC", "good"),
    ("dynamics", {}, "termination", "poor"),
    ("dynamics", {"rank_correlation": 0.5}, "rank", "usable"),
    ("dynamics", {}, "rank", "not run"),
    ("controller_in_model", {}, "return in the model", "good"),
    ("controller_in_model", {"mean": 600.0}, "return in the model", "usable"),
    ("controller_in_model", {"mean": 900.0}, "return in the model", "poor"),
    ("controller_in_model", {"mean": 100.0}, "return in the model", "usable"),
    ("controller_in_model", {"mean": 900.0, "n": 2, "std": 900.0}, "return in the model", "usable"),
  ],
)
def test_verdict(section, changes, name, verdict):
  check = _verdict(changed(section, **changes), name)
  assert check.verdict == verdict
  assert (check.value == "not run") == (verdict == "not run")
  assert bool(check.words) == (verdict != "not run")


_CONTROLLER = {
  "critic": 95.0,
  "monte_carlo": 100.0,
  "monte_carlo_error": 4.0,
  "clipped": 0.01,
  "saturated": 0.1,
}


@pytest.mark.parametrize(
  ("changes", "name", "verdict"),
  [
    ({}, "Monte Carlo", "good"),
    ({"critic": 70.0}, "Monte Carlo", "usable"),
    ({"critic": 120.0}, "Monte Carlo", "usable"),
    ({"critic": 50.0}, "Monte Carlo", "poor"),
    ({"critic": 150.0}, "Monte Carlo", "poor"),
    ({"critic": -95.0, "monte_carlo": -100.0}, "Monte Carlo", "good"),
    ({"critic": 95.0, "monte_carlo": -100.0}, "Monte Carlo", "poor"),
    ({"critic": 5.0, "monte_carlo": 19.0}, "Monte Carlo", "no verdict"),  # 4.75 errors from 0.
    ({"critic": None}, "Monte Carlo", "not run"),
    ({}, "clipped", "good"),
    ({"clipped": 0.3}, "clipped", "usable"),
    ({"clipped": 0.99}, "clipped", "poor"),
    ({"clipped": float("nan")}, "clipped", "poor"),
    ({"clipped": None}, "clipped", "not run"),
    ({}, "saturated", "good"),
    ({"saturated": 0.7}, "saturated", "usable"),
    ({"saturated": 0.95}, "saturated", "poor"),
  ],
)
def test_verdict_of_a_controllers_training(changes, name, verdict):
  assert _verdict(RESULTS | {"controller": _CONTROLLER | changes}, name).verdict == verdict


def test_a_method_without_figures_has_no_row_of_them():
  with_figures = report.checks(RESULTS | {"controller": _CONTROLLER})
  assert len(with_figures) - len(report.checks(RESULTS)) == 3
  assert len(report.checks(RESULTS | {"controller": {}})) == len(report.checks(RESULTS))


def test_open_loop_reach_stops_where_persistence_first_wins():
  def reach(results):
    return _verdict(results, "open loop").value

  assert reach(RESULTS) == "20"
  assert reach(changed("dynamics", open_loop={"1": 0.4, "5": 2.0, "10": 0.1})) == "1"
  assert reach(changed("dynamics", open_loop={"1": 0.4, "20": 1.0})) == "20 or more"


def test_summary_says_the_return_first_and_counts_the_rest():
  text = verdicts.summary(report.checks(RESULTS))
  assert text.startswith("Return of the controller: usable. ")
  assert text.endswith(" 9 figures of the model judged: 8 good, 1 poor. 1 not run.")
  assert verdicts.summary(report.checks({})) == (
    "The return in the environment was not measured. No figure of the model was measured yet."
  )


def _pendulum(**vae):
  return {"environment": "Pendulum-v1", "vae": vae}


@pytest.mark.parametrize(
  ("vae", "verdict"),
  [
    ({"sse": 20.0, "sse_mean_image": 21.0}, "poor"),  # CarRacing's limits would call it good.
    ({"sse": 200.0, "sse_mean_image": 2000.0}, "good"),
    ({"sse": 200.0, "sse_mean_image": 500.0}, "usable"),
    ({"sse": float("nan"), "sse_mean_image": 500.0}, "poor"),
    ({"sse": 200.0}, "no verdict"),
    ({"sse": 200.0, "sse_mean_image": 0.0}, "no verdict"),
  ],
)
def test_images_of_other_environments_are_judged_by_the_mean_image(vae, verdict):
  assert _verdict(_pendulum(**vae), "SSE").verdict == verdict


def test_published_squared_errors_scale_with_the_image():
  for shape, verdict in (([64, 64, 3], "usable"), ([128, 128, 3], "good"), ([32, 32, 3], "poor")):
    results = changed("vae", sse=30.0, sse_mean_image=45.0, image_shape=shape)
    assert _verdict(results, "SSE").verdict == verdict


@pytest.mark.parametrize(
  ("part", "verdict", "value"),
  [
    ({"kind": "vector", "error": 0.02, "baseline": 1.0}, "good", "98% of the variance (error 0.02"),
    ({"kind": "vector", "error": 0.001, "baseline": 1.0}, "good", "99.90% of the variance"),
    ({"kind": "vector", "error": 0.15, "baseline": 1.0}, "usable", "85%"),
    ({"kind": "vector", "error": 0.3, "baseline": 1.0}, "poor", "70%"),
    ({"kind": "image", "error": 15.0, "baseline": 100.0}, "good", "85%"),
    ({"kind": "vector", "error": 2.0, "baseline": 1.0}, "poor", "-100%"),
    ({"kind": "vector", "error": float("nan"), "baseline": 1.0}, "poor", "nan"),
    ({"kind": "vector", "error": 0.0, "baseline": 0.0}, "no verdict", "0"),
    ({"kind": "vector", "error": None, "baseline": 1.0}, "not run", "not run"),
    (None, "not run", "not run"),
  ],
)
def test_parts_are_judged_by_the_variance_they_explain(part, verdict, value):
  check = _verdict(_pendulum(parts={"joints": part}), "reconstruction of joints")
  assert check.verdict == verdict and check.value.startswith(value)


def test_an_image_given_twice_is_judged_once():
  parts = {
    "camera": {"kind": "image", "error": 10.0, "baseline": 100.0},
    "speed": {"kind": "vector", "error": 0.1, "baseline": 1.0},
  }
  found = report.checks(_pendulum(sse=10.0, sse_mean_image=100.0, parts=parts))
  names = [check.name for check in found if "reconstruction" in check.name]
  assert names == [
    "reconstruction error, SSE per image, held-out frames",
    "reconstruction of speed (vector)",
  ]
  alone = report.checks(_pendulum(parts={"": parts["speed"]}))
  assert "reconstruction of the observation (vector)" in [check.name for check in alone]
  assert not [check for check in alone if "SSE" in check.name]


@pytest.mark.parametrize(("active", "verdict"), [(3, "no verdict"), (0, "poor")])
def test_few_active_dimensions_are_enough_for_few_degrees_of_freedom(active, verdict):
  assert _verdict(_pendulum(active_dimensions=active), "active").verdict == verdict


def test_published_figures_are_shown_for_their_environment_only():
  for env_id in ("CarRacing-v3", "gym:CarRacing-v2", "VizdoomTakeCover-v1"):
    results = RESULTS | {"env_id": env_id}
    assert "Published, " in report.terminal_table(results)
    assert _verdict(results, "SSE").reference != _verdict(_pendulum(), "SSE").reference
  for env_id in ("CarRacingPlus-v1", "ALE/Pong-v5", "MyTakeCover-v0", ""):
    results = RESULTS | {"env_id": env_id}
    assert "Published" not in report.terminal_table(results)
    assert _verdict(results, "SSE").reference == _verdict(_pendulum(), "SSE").reference


def test_a_jointly_trained_model_is_judged_by_its_reconstruction():
  results = {name: section for name, section in RESULTS.items() if name != "vae"}
  part = {"kind": "vector", "error": 0.01, "baseline": 1.0}
  results["reconstruction"] = {"parts": {"observation": part}}
  found = [check for check in report.checks(results) if check.group in ("VAE", "reconstruction")]
  assert [(check.group, check.verdict) for check in found] == [("reconstruction", "good")]
