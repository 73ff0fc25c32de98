"""The report of a run: a table for the terminal and one self-contained HTML page.

The functions take plain data (the content of `results.json`, histories, frames) and return text or
bytes. Only `write_report` and `save_figures` write files. No function prints.
"""

from wm_tf.report.animations import animation
from wm_tf.report.disagreement_figure import disagreement_figure
from wm_tf.report.figures import learning_curves, open_loop_figure, returns_figure, scores_figure
from wm_tf.report.film_strips import film_strip
from wm_tf.report.formatting import figures_text, scores_text
from wm_tf.report.observations import display_frames, observation_strip
from wm_tf.report.overview import in_words, terminal_table
from wm_tf.report.page import render_page, save_figures, write_report
from wm_tf.report.vector_plots import vector_strip
from wm_tf.report.verdicts import checks

__all__ = [
  "animation",
  "checks",
  "disagreement_figure",
  "display_frames",
  "figures_text",
  "film_strip",
  "in_words",
  "learning_curves",
  "observation_strip",
  "open_loop_figure",
  "render_page",
  "returns_figure",
  "save_figures",
  "scores_figure",
  "scores_text",
  "terminal_table",
  "vector_strip",
  "write_report",
]
