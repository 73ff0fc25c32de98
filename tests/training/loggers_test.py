"""Tests of the loggers: what is written is what is read, and a resume leaves no line twice."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from wm_tf.files import DamagedFileError
from wm_tf.training.loggers import (
  JsonlLogger,
  Logger,
  Loggers,
  ProgressLogger,
  TensorBoardLogger,
  make_loggers,
  progress,
  read_jsonl,
)


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_jsonl_round_trip(tmp_path):
  logger = JsonlLogger(tmp_path / "run" / "metrics.jsonl")
  logger.rewind(10)  # Nothing there yet.
  logger.write(1, {"train/nll": 0.1 + 0.2, "eval/nll": math.nan})
  logger.write(2, {"train/nll": -math.inf})
  assert read_jsonl(logger.path) == [
    {"step": 1, "train/nll": 0.1 + 0.2, "eval/nll": None},
    {"step": 2, "train/nll": None},
  ]
  assert "NaN" not in logger.path.read_text()  # Not JSON: a browser could not read it.


def test_jsonl_rewind_drops_later_and_torn_lines(tmp_path):
  logger = JsonlLogger(tmp_path / "metrics.jsonl")
  for step in (1, 2, 3):
    logger.write(step, {"x": step})
  with open(logger.path, "a") as file:
    file.write('{"step": 2, "x"')  # The write that a kill cut short.
  assert [line["step"] for line in read_jsonl(logger.path)] == [1, 2, 3]
  logger.rewind(2)
  logger.write(4, {"x": 4})
  assert (
    logger.path.read_text() == '{"step": 1, "x": 1}\n{"step": 2, "x": 2}\n{"step": 4, "x": 4}\n'
  )


def test_jsonl_rewind_to_the_start_keeps_what_was_measured_there(tmp_path):
  logger = JsonlLogger(tmp_path / "metrics.jsonl")
  for step in (0, 1):
    logger.write(step, {"x": step})
  logger.rewind(0)
  assert [line["step"] for line in read_jsonl(logger.path)] == [0]
  logger.path.write_text("no log\n")
  logger.rewind(-1)
  assert not logger.path.exists()


def test_jsonl_damage_in_the_middle_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
  with pytest.raises(DamagedFileError, match=r"metrics.jsonl is damaged \(line 2 is not of a log"):
    read_jsonl(path)


def test_a_film_is_played_by_tensorboard(tmp_path):
  frames = np.zeros((4, 6, 8, 3), np.uint8)
  frames[np.arange(4), :, np.arange(4)] = 255
  logger = Loggers([JsonlLogger(tmp_path / "metrics.jsonl"), TensorBoardLogger(tmp_path)])
  logger.film(7, "dream", frames, fps=20.0)
  logger.close()
  events = EventAccumulator(str(tmp_path)).Reload()
  (event,) = events.Images("dream")
  picture = Image.open(io.BytesIO(event.encoded_image_string))
  assert event.step == 7 and (event.height, event.width) == (6, 8)
  assert picture.format == "GIF" and picture.n_frames == 4 and picture.info["duration"] == 50
  for i in range(4):
    picture.seek(i)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), frames[i])


def test_tensorboard_round_trip(tmp_path):
  logger = TensorBoardLogger(tmp_path)
  logger.write(3, {"train/nll": 1.5})
  logger.write(7, {"train/nll": -2.25})
  logger.close()
  events = EventAccumulator(str(tmp_path)).Reload()
  found = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors("train/nll")]
  assert found == [(3, 1.5), (7, -2.25)]


def test_progress_on_a_terminal_is_a_bar():
  stream = Terminal()
  assert list(progress("abc", "reading", stream=stream)) == ["a", "b", "c"]
  assert "reading: 100%" in stream.getvalue() and "3/3" in stream.getvalue()
  stream = Terminal()
  with progress(10, "steps", stream=stream, initial=4) as bar:
    bar.update(5, {"loss": 0.123456})
  assert "9/10" in stream.getvalue() and "loss=0.1235" in stream.getvalue()


def test_progress_elsewhere_is_occasional_lines(monkeypatch):
  now = [100.0]
  monkeypatch.setattr("wm_tf.training.loggers.time.monotonic", lambda: now[0])
  stream = io.StringIO()
  bar = progress(1000, "steps", initial=400, stream=stream, seconds_between_lines=30)
  for _ in range(70):
    now[0] += 1.0
    bar.update(5, {"train/loss": 2.5})
  bar.close()
  bar.close()
  assert stream.getvalue().splitlines() == [
    # 150 in 30 s, whatever was done before this process; 450 are left.
    "steps: 550/1000, 5 it/s, 00:30 elapsed, 01:30 left, train/loss=2.5",
    "steps: 700/1000, 5 it/s, 01:00 elapsed, 01:00 left, train/loss=2.5",
    "steps: 750/1000, 5 it/s, 01:10 elapsed, 00:50 left, train/loss=2.5",
  ]
  assert "\r" not in stream.getvalue()


def test_progress_closes_when_the_loop_breaks():
  stream = io.StringIO()
  for item in progress(iter("abc"), "reading", stream=stream):
    if item == "b":
      break
  assert stream.getvalue().startswith("reading: 1,")


def test_progress_logger_shows_chosen_metrics():
  stream = io.StringIO()
  logger = ProgressLogger("vae", keys=("eval/loss",), stream=stream, seconds_between_lines=0.0)
  logger.rewind(20)
  logger.tick(21)
  for step in range(22, 25):
    logger.tick(step, 40)
  logger.write(24, {"train/loss": 1.0, "eval/loss": 0.5})
  logger.close()
  lines = stream.getvalue().splitlines()
  assert lines[0].startswith("vae: 21, ") and lines[-1].startswith("vae: 24/40, ")
  assert lines[-1].endswith("eval/loss=0.5") and "train/loss" not in stream.getvalue()


def test_loggers_hand_everything_on():
  calls = []

  class Recorder(Logger):
    def write(self, step, metrics):
      calls.append(("write", step, metrics))

    def rewind(self, step):
      calls.append(("rewind", step))

    def tick(self, step, total=None):
      calls.append(("tick", step, total))

    def close(self):
      calls.append(("close",))

  loggers = Loggers([Recorder(), Recorder()])
  loggers.rewind(1)
  loggers.tick(2, 9)
  loggers.write(2, {"x": 1.0})
  loggers.close()
  once = [("rewind", 1), ("tick", 2, 9), ("write", 2, {"x": 1.0}), ("close",)]
  assert calls == [call for call in once for _ in range(2)]


def test_make_loggers(tmp_path, capsys):
  loggers = make_loggers(tmp_path, desc="vae")
  loggers.write(1, {"train/loss": 1.0})
  loggers.close()
  assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 1.0}]
  assert len(list(Path(tmp_path, "tensorboard").iterdir())) == 1
  assert "vae: 1, " in capsys.readouterr().err
  quiet = make_loggers(tmp_path, tensorboard=False)
  quiet.write(2, {"train/loss": 1.0})
  quiet.close()
  assert capsys.readouterr().err == ""
