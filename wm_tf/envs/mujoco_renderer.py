"""Renders MuJoCo models in a process of its own.

Mesa, which renders without a GPU, brings an LLVM that crashes XLA's in the same process.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import struct
import subprocess
import sys
from typing import BinaryIO

import gymnasium as gym
import numpy as np

_HEADER = struct.Struct("<II")  # Bytes of the model, 0 if it is the one before; bytes of the state.


class MujocoRenderer:
  """A process that renders states of a model.

  Attributes:
    height, width: size of the frames in pixels.
    camera: number of the camera.
  """

  def __init__(self, height: int, width: int, camera: int):
    """Makes a renderer; its process starts with the first frame.

    Args:
      height: height of the frames in pixels.
      width: width of the frames in pixels.
      camera: number of the camera.
    """
    self.height, self.width, self.camera = height, width, camera
    self._process: subprocess.Popen | None = None

  def render(self, model: bytes, state: np.ndarray) -> np.ndarray:
    """Renders a state.

    Args:
      model: the model as `mj_saveModel` writes it; empty for that of the call before.
      state: its integration state, `float64[S]`.

    Returns:
      `uint8[height, width, 3]`.

    Raises:
      DependencyNotInstalled: if this machine cannot render.
    """
    process = self._process = self._process or self._start()
    with contextlib.suppress(BrokenPipeError):  # Its reason is read below.
      process.stdin.write(_HEADER.pack(len(model), state.nbytes) + model + state.tobytes())
      process.stdin.flush()
    frame = process.stdout.read(self.height * self.width * 3)
    if len(frame) < self.height * self.width * 3:
      reason = process.stderr.read().decode(errors="replace").strip().splitlines()
      self.close()
      raise gym.error.DependencyNotInstalled(
        f"MuJoCo cannot render with MUJOCO_GL={_environment()['MUJOCO_GL']!r}"
        f" ({reason[-1] if reason else 'its process ended'}). Install EGL (libegl1) or OSMesa "
        "(libosmesa6) and set MUJOCO_GL=egl or osmesa."
      )
    return np.frombuffer(frame, np.uint8).reshape(self.height, self.width, 3).copy()

  def _start(self) -> subprocess.Popen:
    sizes = map(str, (self.height, self.width, self.camera))
    pipe = subprocess.PIPE
    return subprocess.Popen(
      [sys.executable, "-m", __name__, *sizes],
      stdin=pipe,
      stdout=pipe,
      stderr=pipe,
      env=_environment(),
    )

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
        with contextlib.suppress(BrokenPipeError):
          stream.close()
      self._process.wait()
      self._process = None


def _environment() -> dict[str, str]:
  """Returns the variables of the process, with a renderer that this machine has."""
  chosen = "glfw" if "DISPLAY" in os.environ else None
  for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
    chosen = chosen or (name if ctypes.util.find_library(library) else None)
  path = os.pathsep.join([entry for entry in sys.path if entry] or [os.getcwd()])
  return {"MUJOCO_GL": chosen or "disabled", **os.environ, "PYTHONPATH": path}


def _serve(requests: BinaryIO, frames: BinaryIO, height: int, width: int, camera: int) -> None:
  """Answers every request with the bytes of a frame, until the requests end."""
  import mujoco

  model = data = renderer = None
  while header := requests.read(_HEADER.size):
    model_size, state_size = _HEADER.unpack(header)
    if model_size:
      assets = {"model.mjb": requests.read(model_size)}
      model = mujoco.MjModel.from_binary_path("model.mjb", assets)
      data = mujoco.MjData(model)
      if renderer is not None:
        renderer.close()
      renderer = mujoco.Renderer(model, height, width)
    state = np.frombuffer(requests.read(state_size), np.float64)
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data, camera)
    frames.write(np.ascontiguousarray(renderer.render()).tobytes())
    frames.flush()


if __name__ == "__main__":
  # Libraries print to the standard output, which is for frames only.
  _FRAMES = os.fdopen(os.dup(1), "wb")
  os.dup2(2, 1)
  _serve(sys.stdin.buffer, _FRAMES, *map(int, sys.argv[1:]))
