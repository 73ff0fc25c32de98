"""The report says what the results say, loads nothing, and survives what is missing or odd."""

import copy
import io
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageSequence

from wm_tf import report
from wm_tf.report import scores, verdicts

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
  """Reads a page strictly: every tag closes in order. Collects text, tags, ids and table rows."""

  def __init__(self, html: str):
    super().__init__()
    self.stack, self.tags, self.words, self.rows = [], [], [], []
    self.feed(html)
    self.close()
    assert self.stack == [], f"left open: {self.stack}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")
    if tag not in VOID:
      self.stack.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-1:]}"
    self.stack.pop()

  def handle_data(self, data):
    if "style" in self.stack:
      return
    self.words.append(data)
    if "td" in self.stack or "th" in self.stack:
      self.rows[-1][-1] += data

  @property
  def text(self):
    return " ".join(" ".join(self.words).split())

  def row(self, head: str) -> list[str]:
    """The first row whose first cell starts with `head`."""
    return next([c.strip() for c in row] for row in self.rows if row and row[0].startswith(head))


def _score(mean, std, n, seconds=60.0, first=5000):
  return {
    "mean": mean,
    "std": std,
    "n": n,
    "seeds": list(range(first, first + n)),
    "seconds": seconds,
  }


RESULTS = {
  "env_id": "CarRacing-v3",
  "random": _score(-74.6, 33.0, 16),
  "heuristic": _score(631.4, 131.0, 16, 55.5, 7000),
  "controller_in_model": _score(548.9, 90.0, 64, 8.2),
  "controller_in_environment": _score(512.3, 136.0, 25, 88.0),
  "planner_in_environment": _score(377.2, 128.0, 8, 3725.0),
  "vae": {"sse": 19.04, "sse_mean_image": 212.7, "active_dimensions": 24, "kl": 31.26},
  "dynamics": {
    "nll_per_dimension": 1.27,
    "one_step_error": 0.412,
    "persistence_error": 0.671,
    "open_loop": {"1": 0.41, "5": 0.62, "10": 0.8, "20": 1.02, "50": 1.6},
    "open_loop_persistence": {"1": 0.67, "5": 1.2, "10": 1.45, "20": 1.55, "50": 1.58},
    "reward_r2": 0.53,
    "reward_auc": 0.94,
    "termination_auc": 0.71,
  },
  "data": {
    "episodes": 186,
    "frames": 41234,
    "by_policy": {"brownian": 60, "heuristic": {"episodes": 40, "frames": 9000}, "held": 86},
  },
  "iterations": [
    {
      "iteration": 0,
      "episodes": 122,
      "controller_in_model": {"mean": 812.0, "std": 60.0, "n": 9},
      "controller_in_environment": {"mean": -37.0, "std": 20.0, "n": 4},
    },
    {"iteration": 1, "episodes": 16, "controller_in_model": {"mean": 640.0, "std": 60.0, "n": 9}},
  ],
  "seconds": {"collect": 163.0, "train_vae": 201.0, "evolve": 320.0},
}
CONFIG = {"preset": "quickstart", "dynamics": {"num_mixtures": 5, "sizes": [1, 2]}}
HISTORY = [
  {
    "step": step,
    "train/loss": 500 / (step + 1),
    "eval/loss": 510 / (step + 1),
    "train/reward_loss": 3.0,
  }
  for step in range(40)
]


@pytest.fixture(scope="module")
def frames():
  """`uint8[6, 8, 8, 3]`: frame t is one flat colour, another one for every t."""
  values = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
  return np.broadcast_to(values + np.array([0, 20, 40], np.uint8), (6, 8, 8, 3)).copy()


@pytest.fixture(scope="module")
def html(frames):
  figures = {
    "animation": report.animation(frames, beside=frames),
    "film_strip": report.film_strip({"real": frames}),
    "something_else": report.film_strip({"other": frames}),
  }
  return report.render_page(
    RESULTS,
    CONFIG,
    figures,
    histories={"VAE": HISTORY, "dynamics": HISTORY},
    notes=["a note"],
    command="make quickstart SEED=3",
    created="a day in May",
  )


# The numbers.


def test_standard_error_is_std_over_root_n():
  row = scores.score("x", {"mean": 1.0, "std": 10.0, "n": 25})
  assert row.standard_error == pytest.approx(2.0)
  assert scores.score("x", {"mean": 1.0, "std": 0.0, "n": 1}).standard_error is None
  assert scores.score("x", {"mean": 1.0, "std": 3.0}).standard_error is None


def test_gap_is_the_dream_minus_the_environment():
  found = scores.gap(RESULTS)
  assert found.mean == pytest.approx(548.9 - 512.3)
  assert found.standard_error == pytest.approx((90**2 / 64 + 136**2 / 25) ** 0.5)
  assert found.text == "+37 ± 29"
  assert scores.gap({"controller_in_model": RESULTS["controller_in_model"]}) is None


@pytest.mark.parametrize(
  ("value", "places", "sign", "text"),
  [
    (41234, 0, "", "41,234"),
    (-0.4, 0, "", "0"),
    (-74.6, 0, "", "-75"),
    (36.6, 1, "+", "+36.6"),
    (np.float32(0.5), 2, "", "0.50"),
    (float("nan"), 0, "", "nan"),
    (None, 0, "", "-"),
  ],
)
def test_number(value, places, sign, text):
  assert scores.number(value, places, sign) == text


def test_durations_and_ranges():
  assert [scores.duration(s) for s in (8.24, 59.96, 185, 3725, 7200, None)] == [
    "8.2 s",
    "1 min 00 s",
    "3 min 05 s",
    "1 h 02 min",
    "2 h 00 min",
    "-",
  ]
  assert scores.ranges([9, 3, 4, 5, 4]) == "3-5, 9"
  assert scores.ranges([]) == ""


def test_terminal_table_holds_every_score():
  lines = report.terminal_table(RESULTS).split("\n")
  cells = {line[:34].strip(): line[34:].split() for line in lines if "served planner" in line}
  assert cells["served planner, in the environment"] == [
    "377",
    "45",
    "128",
    "8",
    "1",
    "h",
    "02",
    "min",
  ]
  row = next(line for line in lines if line.startswith("controller, in the environment"))
  assert row.split()[4:8] == ["512", "27", "136", "25"]
  widths = {len(line) for line in lines[2:9]}
  assert len(widths) == 1 and widths.pop() <= 90
  assert any("+37 ± 29" in line for line in lines)
  published = "\n".join(lines[lines.index("Published, CarRacing-v0") :])
  assert "measured on v0" in published and "906 ± 21" in published


def test_terminal_table_of_nothing_says_not_run():
  text = report.terminal_table({"random": None, "heuristic": {}, "env_id": "Toy-v0"})
  assert text.count("not run") == 5
  assert "Published" not in text
  assert "gap" not in text


def test_any_other_score_gets_a_row():
  results = {**RESULTS, "controller_untrained_rnn": _score(101.0, 10.0, 4)}
  assert "controller untrained rnn" in report.terminal_table(results)
  page = Page(report.render_page(results, {}))
  assert page.row("controller untrained rnn")[1] == "101 ± 5"


def test_in_words_names_frames_time_scores_and_the_heuristic():
  text = report.in_words(RESULTS)
  assert "41,234 frames (186 episodes)" in text
  assert "the whole run took 11 min 24 s" in text
  assert "scores 512 ± 27 and the served planner 377 ± 45" in text
  assert "The best is 119 short of the heuristic." in text
  close = {**RESULTS, "heuristic": _score(540.0, 131.0, 16)}
  assert "cannot tell the best of them from the heuristic" in report.in_words(close)
  ahead = {**RESULTS, "heuristic": _score(100.0, 10.0, 16)}
  assert "The best is 412 above the heuristic." in report.in_words(ahead)
  assert report.in_words({}).startswith("No world model of CarRacing-v3 was learned.")


# The verdicts.


def _verdict(results, name):
  found = [c for c in report.checks(results) if name in c.name]
  assert len(found) == 1
  return found[0]


def _with(section, **changes):
  results = copy.deepcopy(RESULTS)
  results[section].update(changes)
  return results


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
  check = _verdict(_with(section, **changes), name)
  assert check.verdict == verdict
  assert (check.value == "not run") == (verdict == "not run")
  assert bool(check.words) == (verdict != "not run")


def test_open_loop_reach_stops_where_persistence_first_wins():
  assert _verdict(RESULTS, "open loop").value == "20"
  assert (
    _verdict(_with("dynamics", open_loop={"1": 0.4, "5": 2.0, "10": 0.1}), "open loop").value == "1"
  )
  assert (
    _verdict(_with("dynamics", open_loop={"1": 0.4, "20": 1.0}), "open loop").value == "20 or more"
  )


def test_summary_counts_verdicts():
  assert verdicts.summary(report.checks(RESULTS)) == "9 figures judged: 8 good, 1 poor. 1 not run."
  assert "nothing can be judged" in verdicts.summary(report.checks({}))


# The page.


def test_page_shows_every_number_given(html):
  page = Page(html)
  expected = {
    "random": ["-75 ± 8", "33", "16", "1 min 00 s"],
    "scripted heuristic": ["631 ± 33", "131", "16", "55.5 s"],
    "controller, in the model": ["549 ± 11", "90", "64", "8.2 s"],
    "controller, in the environment": ["512 ± 27", "136", "25", "1 min 28 s"],
    "served planner, in the environment": ["377 ± 45", "128", "8", "1 h 02 min"],
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
  assert page.row("controller's return")[1] == "+37 ± 29"
  assert page.row("brownian")[1:] == ["60 episodes", "32%"]
  assert page.row("heuristic")[1:] == ["40 episodes", "22%"]
  assert "The scripted heuristic drove 40 of 186 episodes (22%)" in page.text
  assert page.row("evolve")[1:] == ["5 min 20 s", "47%"]
  assert page.row("dynamics.num_mixtures") == ["dynamics.num_mixtures", "5"]
  assert page.row("dynamics.nll_per_dimension") == ["dynamics.nll_per_dimension", "1.27"]
  assert page.row("planner_in_environment.seeds")[1] == "5000-5007"
  iterations = [row for row in page.rows if len(row) == 5 and row[0] in ("0", "1")]
  assert iterations == [
    ["0", "122", "812 ± 20", "-37 ± 10", "+849 ± 22"],
    ["1", "16", "640 ± 20", "-", "-"],
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
    "scripted heuristic",
    "train loss",
    "held out loss",
    "512 ± 27 · n 25",
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
  for key in [missing] if missing in scores._LABELS else []:
    assert page.row(scores._LABELS[key])[1] == "not run"
  if missing == "everything":
    assert page.text.count("not run") >= 20
    assert "Neither controller nor planner" in page.text


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
      results = _with(section, **{key: nothing})
      report.checks(results)
      report.terminal_table(results)
      report.in_words(results)


def test_data_without_the_heuristic_says_so():
  results = {**RESULTS, "data": {"episodes": 5, "frames": 9, "by_policy": {"brownian": 5}}}
  assert "None of it came from the scripted heuristic" in Page(report.render_page(results, {})).text


def test_odd_strings_are_escaped(frames):
  odd = "<script>alert(\"1\")</script> & '$x_2$' ]]> --> é"
  results = copy.deepcopy(RESULTS)
  results["env_id"] = odd
  results["data"]["by_policy"] = {odd: 3}
  results["seconds"] = {odd: 3.0}
  results["random"]["note"] = odd
  results[odd] = _score(1.0, 1.0, 2)
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


# The pictures.


def test_film_strip_places_every_frame(frames):
  rows = {"real": frames, "dreamed": frames[::-1]}
  data = report.film_strip(rows, steps=[0, 2, 5], scale=4)
  pixels = np.asarray(Image.open(io.BytesIO(data)))
  # From the right and bottom edges, where no label is: margin 12, cells of 32, gaps of 4.
  for row, strip in enumerate(rows.values()):
    for column, step in enumerate([0, 2, 5]):
      x = pixels.shape[1] - 12 - 32 * (3 - column) - 4 * (2 - column)
      y = pixels.shape[0] - 12 - 32 * (2 - row) - 4 * (1 - row)
      cell = pixels[y : y + 32, x : x + 32]
      assert np.array_equal(cell, np.broadcast_to(strip[step, 0, 0], (32, 32, 3)))
      assert tuple(pixels[y - 1, x]) == tuple(pixels[0, 0])  # The ground around it.


def test_film_strip_marks_where_the_dream_begins(frames):
  plain = np.asarray(Image.open(io.BytesIO(report.film_strip({"a": frames}, scale=8))))
  marked = report.film_strip({"a": frames}, scale=8, dream_from=2)
  marked = np.asarray(Image.open(io.BytesIO(marked)))
  assert marked.shape[0] > plain.shape[0] and marked.shape[1] == plain.shape[1]
  pink = np.all(marked == (224, 140, 196), axis=-1)
  left = marked.shape[1] - 12 - 4 * 64 - 3 * 4  # Of the third of six columns.
  assert pink.any() and not pink[:, : left - 1].any()
  assert pink[:, left : left + 80].any()


def test_film_strip_shows_ten_columns_at_most():
  frames = np.zeros((300, 8, 8, 3), np.uint8)
  data = report.film_strip({"a": frames}, scale=2)
  two = report.film_strip({"a": frames}, scale=2, steps=[0, 299])
  widths = [Image.open(io.BytesIO(d)).width for d in (data, two)]
  assert widths[0] - widths[1] == 8 * (16 + 4)


@pytest.mark.parametrize(
  ("rows", "options", "message"),
  [
    ({}, {}, "no rows"),
    ({"real": np.zeros((2, 8, 8, 3))}, {}, "row 'real'.*uint8.*float64"),
    ({"a": np.zeros((2, 8, 8, 3), np.uint8), "b": np.zeros((3, 8, 8, 3), np.uint8)}, {}, "row 'b'"),
    ({"a": np.zeros((2, 8, 8, 3), np.uint8)}, {"steps": [0, 2]}, r"steps \[2\].*0 to 1"),
    ({"a": [1, 2]}, {}, "row 'a'.*list"),
  ],
)
def test_film_strip_refuses(rows, options, message):
  with pytest.raises(ValueError, match=message):
    report.film_strip(rows, **options)


def test_animation_plays_every_frame_at_its_time(frames):
  data = report.animation(
    frames, beside=frames[::-1], captions=[f"t {t}" for t in range(6)], fps=12.5, panel_size=32
  )
  gif = Image.open(io.BytesIO(data))
  assert gif.n_frames == 6 and gif.info["loop"] == 0
  assert gif.width == 12 + 32 + 4 + 32 + 12
  durations = []
  for t, image in enumerate(ImageSequence.Iterator(gif)):
    durations.append(image.info["duration"])
    pixels = np.asarray(image.convert("RGB")).astype(int)
    top = 12 + round(14 * 1.6)
    for x, frame in ((12, frames[t]), (12 + 36, frames[5 - t])):
      assert np.abs(pixels[top + 16, x + 16] - frame[0, 0]).max() <= 4  # A palette, not exact.
    assert pixels[-1, -1].max() < 40  # The dark ground.
  assert durations == [80, 80, 80, 80, 80, 1580]


def test_animation_stays_below_the_size_by_dropping_frames_not_speed():
  noise = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), np.uint8)
  full = report.animation(noise, panel_size=64, max_bytes=10**9)
  small = report.animation(noise, panel_size=64, max_bytes=len(full) // 5)
  assert len(small) <= len(full) // 5
  gifs = [Image.open(io.BytesIO(data)) for data in (full, small)]
  assert gifs[1].n_frames < gifs[0].n_frames == 60
  lengths = [sum(f.info["duration"] for f in ImageSequence.Iterator(gif)) for gif in gifs]
  assert lengths == [60 * 80 + 1500] * 2


def test_animation_refuses_unequal_lengths(frames):
  with pytest.raises(ValueError, match="6, 5 and 6"):
    report.animation(frames, beside=frames[:5])
  with pytest.raises(ValueError, match="6, None and 1"):
    report.animation(frames, captions=["a"])


# The charts.


def _curves(svg, color):
  """Every open path drawn in `color`, as arrays of points."""
  paths = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path")
  paths = [p.get("d") for p in paths if f"stroke: var(--{color}" in p.get("style", "")]
  return [np.array(re.findall(r"[ML] (\S+) (\S+)", d), float) for d in paths]


def test_bars_are_as_long_as_the_means():
  results = {"random": _score(-100.0, 0.0, 1), "heuristic": _score(400.0, 0.0, 1)}
  svg = report.scores_figure(results)
  root = ElementTree.fromstring(svg)
  lengths = {}
  for path in root.iter("{http://www.w3.org/2000/svg}path"):
    for name in ("chance", "rule"):
      if f"fill: var(--{name}" in path.get("style", ""):
        points = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
        lengths[name] = np.ptp(points[:, 0])
  assert lengths["rule"] == pytest.approx(4 * lengths["chance"], rel=1e-3)
  assert svg.count("not run") == 3


def test_a_history_that_starts_again_goes_on_to_the_right():
  records = [
    {"iteration": i, "generation": g, "dream/return_best": 10.0 * i + g, "dream/alive": 1.0}
    for i in range(3)
    for g in range(5)
  ]
  svg = report.learning_curves({"ES": records})
  curve = max(_curves(svg, "dream"), key=len)
  assert len(curve) == 15
  assert np.all(np.diff(curve[:, 0]) >= -1e-6)
  assert np.ptp(curve[:, 0]) == pytest.approx(12 * (curve[1, 0] - curve[0, 0]), rel=1e-3)
  boundaries = [c for c in _curves(svg, "faint") if len(c) == 2 and c[0, 0] == c[1, 0]]
  assert len(boundaries) == 2
  assert "dream return best" in svg and "generation" in svg and "alive" not in svg


def test_learning_curves_draw_loss_and_leave_the_rest():
  svg = report.learning_curves({"VAE $x$": HISTORY, "empty": []})
  assert "VAE $x$" in svg and "train loss" in svg and "held out loss" in svg
  assert "reward" not in svg
  assert svg.count("not run") == 1
  chosen = report.learning_curves({"VAE": HISTORY}, metrics={"VAE": ["train/reward_loss"]})
  assert "train reward loss" in chosen and "held out" not in chosen


def test_long_curves_are_thinned_and_keep_their_end():
  records = [{"step": i, "train/loss": float(i % 7)} for i in range(10_001)]
  curve = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert len(curve) <= 500
  records = [{**r, "eval/loss": 1.0} for r in records]
  full = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert full[-1, 0] == pytest.approx(curve[-1, 0], abs=1.0)


def test_values_that_are_not_finite_are_left_out():
  records = [{"step": i, "train/loss": float("nan") if i == 2 else 1.0 + i} for i in range(5)]
  curve = max(_curves(report.learning_curves({"a": records}), "dream"), key=len)
  assert len(curve) == 4
  bad = {"mean": float("nan"), "std": float("inf"), "n": 4}
  svg = report.scores_figure({"random": bad})
  assert ">nan<" in svg
  report.returns_figure([{"iteration": 0, "controller_in_model": bad}], {"random": bad})


def test_returns_figure_draws_both_returns_in_scale():
  svg = report.returns_figure(
    [
      {
        "iteration": i,
        "controller_in_model": {"mean": 300.0},
        "controller_in_environment": {"mean": m},
      }
      for i, m in enumerate([0.0, 100.0, 200.0])
    ],
    {"heuristic": {"mean": 300.0}},
  )
  widest = lambda color: max(_curves(svg, color), key=lambda curve: np.ptp(curve[:, 0]))
  model, real, heuristic = (widest(color) for color in ("dream", "real", "rule"))
  assert np.ptp(model[:, 1]) == pytest.approx(0)
  assert heuristic[0, 1] == pytest.approx(model[0, 1])
  gaps = real[:, 1] - model[:, 1]  # SVG's y grows downwards.
  assert gaps == pytest.approx(gaps[0] * np.array([1, 2 / 3, 1 / 3]), rel=1e-3)


def test_charts_are_the_same_for_the_same_data():
  assert report.scores_figure(RESULTS) == report.scores_figure(RESULTS)
  assert report.open_loop_figure(RESULTS["dynamics"]) == report.open_loop_figure(
    RESULTS["dynamics"]
  )
