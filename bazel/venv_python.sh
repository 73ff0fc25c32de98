#!/bin/sh
# The interpreter that Bazel's targets run on: the one in the checkout's .venv, found by following
# this script's link out of the sandbox.
checkout=$(dirname "$(dirname "$(readlink -f "$0")")")
if [ ! -x "$checkout/.venv/bin/python" ]; then
  echo "no $checkout/.venv/bin/python: run \`make setup\` first" >&2
  exit 1
fi
exec "$checkout/.venv/bin/python" "$@"
