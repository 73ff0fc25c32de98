"""The HTTP server's end, which takes place in two threads."""

import time

from waitress.trigger import trigger

from serving.rest_server import RestServer


class Silent:
  """Stands for the REST API where nobody calls."""

  threads = 1

  def close(self):
    pass


def test_the_end_may_come_before_whoever_asks_for_it_has_returned(monkeypatch):
  pull = trigger._physical_pull

  def slowly(self):
    pull(self)
    time.sleep(0.1)  # The server's thread does what it was told meanwhile.
    pull(self)

  monkeypatch.setattr(trigger, "_physical_pull", slowly)
  server = RestServer(Silent(), "127.0.0.1", 0)
  server.stop(grace=0.0)
  assert not server._thread.is_alive()
