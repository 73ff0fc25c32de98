"""One environment in its own process: `python -m wm_tf.data.env_worker FD`, run by `EnvPool`.

`EnvPool` does not use `multiprocessing`, because that would import the parent's `__main__` and with
it TensorFlow, which costs seconds and hundreds of megabytes for each worker.

FD is a socket. The first message is `(pickled make_env_fn, timeout in seconds)`; the reply is the
environment's `EnvSpec`. Further messages are `("reset", seed)` or `("step", action)`; the reply to
each is `(observation, reward, terminated, truncated, info)`. After a failure the worker replies
with a `WorkerTraceback` and exits. It also exits when the socket is closed.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection


class WorkerTraceback(str):
  """The traceback of a worker's failure as text."""


def serve(connection: Connection) -> None:
  """Answers requests until the other side closes the connection.

  Args:
    connection: the connection to the pool.
  """
  factory, seconds = connection.recv()
  env = _watched(seconds, pickle.loads(factory))
  connection.send(env.spec_)
  while True:
    try:
      request, argument = connection.recv()
    except EOFError:
      break
    if request == "reset":
      observation, info = _watched(seconds, env.reset, seed=argument)
      connection.send((observation, 0.0, False, False, info))
    else:
      connection.send(_watched(seconds, env.step, argument))
  env.close()


def _watched(seconds: float, call, *args, **kwargs):
  """Calls a function; ends the process with a traceback if the call takes too long.

  The watchdog does not need the interpreter's lock, so that it also ends native code that hangs,
  even when the parent process is gone.
  """
  faulthandler.dump_traceback_later(seconds, exit=True)
  try:
    return call(*args, **kwargs)
  finally:
    faulthandler.cancel_dump_traceback_later()


def main(descriptor: int) -> None:
  """Runs the worker.

  Args:
    descriptor: the file descriptor of the socket.
  """
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C and closes the socket.
  connection = Connection(descriptor)
  try:
    serve(connection)
  except (BrokenPipeError, ConnectionResetError):
    os._exit(1)  # The parent is gone.
  except BaseException:
    connection.send(WorkerTraceback(traceback.format_exc()))


if __name__ == "__main__":
  # `WorkerTraceback` must be pickled under the module's real name, not as one of `__main__`.
  from wm_tf.data import env_worker

  env_worker.main(int(sys.argv[1]))
