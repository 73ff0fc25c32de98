"""Runs pytest over the files named on the command line: the main of every Bazel test."""

import os
import sys

import pytest

if __name__ == "__main__":
  # Bazel says in the environment where to write, and which tests to run.
  args = ["-p", "no:cacheprovider", "--basetemp", os.path.join(os.environ["TEST_TMPDIR"], "pytest")]
  args += ["-m", "not slow"]
  if os.environ.get("TESTBRIDGE_TEST_ONLY"):
    args += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
  if os.environ.get("XML_OUTPUT_FILE"):
    args += ["--junitxml", os.environ["XML_OUTPUT_FILE"]]
  code = pytest.main(args + sys.argv[1:])
  sys.exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)  # All of them are slow.
