"""Runs pytest over the files named on the command line: the main of every Bazel test."""

import os
import sys

import pytest

if __name__ == "__main__":
  # Bazel says in the environment where to write, and which tests to run.
  args = ["-p", "no:cacheprovider", "--basetemp", os.path.join(os.environ["TEST_TMPDIR"], "pytest")]
  if os.environ.get("TESTBRIDGE_TEST_ONLY"):
    args += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
  if os.environ.get("XML_OUTPUT_FILE"):
    args += ["--junitxml", os.environ["XML_OUTPUT_FILE"]]
  sys.exit(pytest.main(args + sys.argv[1:]))
