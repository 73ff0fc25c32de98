import numpy as np
import pytest

from tests.report.pages import CONFIG, HISTORY, RESULTS
from wm_tf import report


@pytest.fixture(scope="session")
def frames():
  """`uint8[6, 8, 8, 3]`: frame t is one flat colour, another one for every t."""
  values = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
  return np.broadcast_to(values + np.array([0, 20, 40], np.uint8), (6, 8, 8, 3)).copy()


@pytest.fixture(scope="session")
def html(frames):
  """A page with everything on it."""
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
