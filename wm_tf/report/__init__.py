"""The report of a run: a table for the terminal and one self-contained HTML page.

Everything here is a function of plain data (the contents of `results.json`, histories, frames) that
returns text or bytes; only `write_report` and `save_figures` touch the disk. Nothing prints.
"""

from wm_tf.report.disagreement_figure import disagreement_figure
from wm_tf.report.figures import learning_curves, open_loop_figure, returns_figure, scores_figure
from wm_tf.report.images import animation, film_strip
from wm_tf.report.page import render_page, save_figures, write_report
from wm_tf.report.scores import in_words, terminal_table
from wm_tf.report.verdicts import checks

__all__ = [
  "animation",
  "checks",
  "disagreement_figure",
  "film_strip",
  "in_words",
  "learning_curves",
  "open_loop_figure",
  "render_page",
  "returns_figure",
  "save_figures",
  "scores_figure",
  "terminal_table",
  "write_report",
]
