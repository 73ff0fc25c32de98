"""A page read strictly, and what a run might have left to make one of."""

import copy
from html.parser import HTMLParser

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


def score(mean, std, n, seconds=60.0, first=5000):
  """An entry of `results.json` on seeds from `first` on."""
  return {
    "mean": mean,
    "std": std,
    "n": n,
    "seeds": list(range(first, first + n)),
    "seconds": seconds,
  }


RESULTS = {
  "env_id": "CarRacing-v3",
  "random": score(-74.6, 33.0, 16),
  "heuristic": score(631.4, 131.0, 16, 55.5, 7000),
  "controller_in_model": score(548.9, 90.0, 64, 8.2),
  "controller_in_environment": score(512.3, 136.0, 25, 88.0),
  "planner_in_environment": score(377.2, 128.0, 8, 3725.0),
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


def changed(section, **changes):
  """`RESULTS` with other figures in one section."""
  results = copy.deepcopy(RESULTS)
  results[section].update(changes)
  return results
