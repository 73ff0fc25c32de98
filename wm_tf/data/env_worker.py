"""One environment in a process of its own: `python -m wm_tf.data.env_worker FD`, run by `EnvPool`.

A module run by name, because `multiprocessing` would import the parent's `__main__`, and with it
TensorFlow: seconds of start-up and hundreds of megabytes for each worker.

FD is a socket. First comes `(pickled make_env_fn, seconds)`, answered by the environment's
`EnvSpec`; then `("reset", seed)` or `("step", action)`, each answered by `(observation, reward,
terminated, truncated, info)`. A `WorkerTraceback` in place of an answer is the last that is sent.
The end of the socket is the end of the process.
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
  """What went wrong in a worker, as text."""


def serve(connection: Connection) -> None:
  """Answers requests until the other side closes its end."""
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
  """Ends the process, with a traceback of where it hangs, if the call takes too long.

  The watch does not need the interpreter's lock, so native code that hangs is ended as well, even
  when nobody is left to end it from outside.
  """
  faulthandler.dump_traceback_later(seconds, exit=True)
  try:
    return call(*args, **kwargs)
  finally:
    faulthandler.cancel_dump_traceback_later()


def main(descriptor: int) -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the socket.
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
