"""The page says what the results say, loads nothing, and survives what is missing or odd."""

import copy
import os
import re
from xml.etree import ElementTree

import pytest

from tests.report.pages import CONFIG, RESULTS, Page, changed, score
from wm_tf import report
from wm_tf.report import scores


def test_page_shows_every_number_given(html):
  page = Page(html)
  expected = {
    "random": ["-75 ± 9", "33", "16", "1 min 00 s"],
    "scripted policy": ["631 ± 34", "131", "16", "55.5 s"],
    "controller, in the model": ["549 ± 11", "90", "64", "8.2 s"],
    "controller, in the environment": ["512 ± 28", "136", "25", "1 min 28 s"],
    "served planner, in the environment": ["377 ± 48", "128", "8", "1 h 02 min"],
  }
  for head, cells in expected.items():
    assert page.row(head)[1:] == cells
  assert page.row("reconstruction error")[1] == "19.0 (mean image 212.7)"
  assert page.row("active latent")[1] == "24"
  assert page.row("KL to the prior")[1] == "31.3"
  assert page.row("negative log-likelihood")[1] == "1.27"
  assert page.row("one-step error")[1] == "0.412 (persistence 0.671)"
  assert page.row("reward, R²")[1] == "0.53"
  assert page.row("termination, AUC")[1] == "0.71"
  assert page.row("termination, AUC")[3] == "poor"
  assert page.row("rank correlation")[1] == "not run"
  assert page.row("controller's return")[1] == "+37 ± 30"
  assert page.row("brownian")[1:] == ["60 episodes", "32%"]
  assert page.row("heuristic")[1:] == ["40 episodes", "22%"]
  assert "The scripted policy played 40 of 186 episodes (22%)" in page.text
  assert page.row("evolve")[1:] == ["5 min 20 s", "47%"]
  assert page.row("dynamics.num_mixtures") == ["dynamics.num_mixtures", "5"]
  assert page.row("dynamics.nll_per_dimension") == ["dynamics.nll_per_dimension", "1.27"]
  assert page.row("planner_in_environment.seeds")[1] == "5000-5007"
  iterations = [row for row in page.rows if len(row) == 5 and row[0] in ("0", "1")]
  assert iterations == [
    ["0", "122", "812 ± 21", "-37 ± 12", "+849 ± 24"],
    ["1", "16", "640 ± 21", "-", "-"],
  ]
  for words in ("a note", "make quickstart SEED=3", "a day in May", "906 ± 21", "measured on v0"):
    assert words.lower() in page.text.lower()


def test_page_loads_nothing_from_anywhere(html):
  page = Page(html)
  sources = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "data") if key in a]
  assert sum(source.startswith("data:image/") for source in sources) == 3
  assert all(source.startswith(("data:image/", "#")) for source in sources)
  assert "http:" not in html and "https:" not in html and "@import" not in html
  assert all("#" in url for url in re.findall(r"url\(([^)]*)\)", html))
  assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
  policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
  assert "default-src 'none'" in policy


def test_ids_are_unique_and_every_reference_resolves(html):
  page = Page(html)
  ids = [a["id"] for _, a in page.tags if "id" in a]
  assert len(ids) > 50 and len(ids) == len(set(ids))
  used = re.findall(r"url\(#([^)]*)\)", html)
  used += [a["href"][1:] for tag, a in page.tags if tag == "use"]
  assert used and set(used) <= set(ids)


def test_charts_hold_the_words_and_take_the_pages_colors(html):
  page = Page(html)
  for words in (
    "in the model",
    "scripted policy",
    "train loss",
    "held out loss",
    "512 ± 28 · n 25",
  ):
    assert words in page.text
  used = set(re.findall(r"var\(--([a-z]+), #[0-9a-f]{6}\)", html))
  assert {"ink", "real", "dream", "rule"} <= used
  for theme in re.findall(r":root \{(.*?)\}", html, re.DOTALL):
    assert used <= set(re.findall(r"--([a-z]+):", theme))


@pytest.mark.parametrize("missing", [*RESULTS, "everything"])
def test_missing_entries_are_shown_as_not_run(missing):
  results = {} if missing == "everything" else {k: v for k, v in RESULTS.items() if k != missing}
  page = Page(report.render_page(results, {}))
  for key in [missing] if missing in scores.LABELS else []:
    if key == "heuristic":
      assert "scripted policy" not in page.text.replace("The scripted policy played", "")
    else:
      assert page.row(scores.LABELS[key])[1] == "not run"
  if missing == "everything":
    assert page.text.count("not run") >= 18
    assert "No controller or planner has been evaluated" in page.text


@pytest.mark.parametrize("nothing", [None, {}, [], "", float("nan")])
def test_emptied_entries_do_not_break_the_page(nothing):
  emptied = dict.fromkeys(RESULTS, nothing)
  Page(report.render_page(emptied, {}))
  hollow = {
    key: dict.fromkeys(value, nothing) if isinstance(value, dict) else value
    for key, value in RESULTS.items()
  }
  Page(report.render_page(hollow, {}))
  for results in (emptied, hollow):
    report.terminal_table(results)
  for section in ("vae", "dynamics", "random", "controller_in_environment"):
    for key in RESULTS[section]:
      results = changed(section, **{key: nothing})
      report.checks(results)
      report.terminal_table(results)
      report.in_words(results)


def test_data_without_the_heuristic_says_so():
  results = {**RESULTS, "data": {"episodes": 5, "frames": 9, "by_policy": {"brownian": 5}}}
  assert "None of it came from the scripted policy" in Page(report.render_page(results, {})).text


def test_odd_strings_are_escaped(frames):
  odd = "<script>alert(\"1\")</script> & '$x_2$' ]]> --> é"
  results = copy.deepcopy(RESULTS)
  results["env_id"] = odd
  results["data"]["by_policy"] = {odd: 3}
  results["seconds"] = {odd: 3.0}
  results["random"]["note"] = odd
  results[odd] = score(1.0, 1.0, 2)
  results["dynamics"]["mixture"] = odd
  results["iterations"][0]["iteration"] = 7
  page = Page(
    report.render_page(
      results,
      {odd: {odd: odd}},
      {"film_strip": report.film_strip({odd: frames}), odd: report.film_strip({"a": frames})},
      histories={odd: [{"step": 0, "train/loss" + odd: 1.0}]},
      captions={"film_strip": odd},
      notes=[odd],
      command=odd,
      created=odd,
    )
  )
  assert "script" not in {tag for tag, _ in page.tags}
  assert page.text.count(odd) >= 12
  assert next(a["alt"] for tag, a in page.tags if tag == "img") == odd


def test_a_figure_of_another_kind_is_an_error_that_names_it():
  with pytest.raises(ValueError, match=r"'film_strip' is neither PNG or GIF bytes nor SVG"):
    report.render_page({}, {}, {"film_strip": b"JFIF"})


def test_write_report_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "new" / "report.html"
  report.write_report(path, RESULTS, CONFIG, created="first")
  first = path.read_bytes()
  assert b"first" in first

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    report.write_report(path, RESULTS, CONFIG, created="second")
  assert path.read_bytes() == first
  assert os.listdir(path.parent) == ["report.html"]


def test_save_figures_names_files_by_kind(tmp_path, frames):
  strip = report.film_strip({"real": frames})
  svg = report.scores_figure(RESULTS)
  paths = report.save_figures(
    tmp_path, {"strip": strip, "a/b": svg, "gif": report.animation(frames)}
  )
  assert sorted(os.listdir(tmp_path)) == ["a_b.svg", "gif.gif", "strip.png"]
  with open(paths["strip"], "rb") as file:
    assert file.read() == strip
  assert ElementTree.parse(paths["a/b"]).getroot().tag == "{http://www.w3.org/2000/svg}svg"


_OTHER = {
  **{key: value for key, value in RESULTS.items() if key not in ("env_id", "heuristic")},
  "environment": "Pendulum-v1",
  "environment_name": "gym:Pendulum-v1",
  "reward_threshold": None,
  "vae": {"parts": {"": {"kind": "vector", "error": 0.01, "baseline": 1.0}}, "kl": 3.0},
  "data": {"episodes": 5, "frames": 9, "by_policy": {"random": 5}},
}


def test_another_environment_is_reported_in_its_own_words():
  page = Page(report.render_page(_OTHER, {"preset": "quickstart"}))
  texts = [page.text, report.terminal_table(_OTHER), report.in_words(_OTHER)]
  for text in texts:
    found = re.findall(r"(?i)\b(car\w*|road|dr[io]ve\w*|tracks?|doom\w*|published)\b", text)
    assert not found, found
    assert "Pendulum-v1" in text
  assert "gym:Pendulum-v1" in texts[0] and "gym:Pendulum-v1" in texts[1]
  assert "No scripted policy exists for this environment." in page.text
  for text in texts:
    assert "scripted" not in text.replace("No scripted policy exists for this environment.", "")
  assert page.row("reconstruction of the observation (vector)")[1].startswith("99.00%")


def test_the_reward_threshold_is_named_and_drawn():
  results = {**_OTHER, "reward_threshold": 900.0}
  page = Page(report.render_page(results, {}))
  assert "return per episode (dotted: reward threshold 900)" in page.text
  assert "gymnasium calls it solved: 900" in report.terminal_table(results)
  without = Page(report.render_page(_OTHER, {}))
  assert "threshold" not in without.text.replace("reward_threshold", "")
