"""What the golden tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainers.launcher import Launcher


@pytest.fixture(scope="session")
def launcher(tmp_path_factory) -> Iterator[Launcher]:
  launcher = Launcher(tmp_path_factory.mktemp("logs"))
  yield launcher
  launcher.end()
