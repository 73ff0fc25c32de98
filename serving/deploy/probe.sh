#!/bin/bash
# Checks readiness with real calls over REST: `initial_state`, then `act` on a black frame. It needs
# only bash, so that it runs in the unmodified tensorflow/serving image.
#
#   bash probe.sh planner [port] [labels/stable | versions/7]
#
# A model's status is not enough: a model can be AVAILABLE and still fail every request.
set -u
model=${1:?usage: probe.sh model [port] [labels/NAME | versions/NUMBER]}
port=${2:-8501}
path=/v1/models/$model${3:+/$3}:predict
row=$(printf '[0,0,0],%.0s' {1..64})
frame=$(printf "[${row%,}],%.0s" {1..64})

# predict BODY: prints the reply; fails unless its status is 200.
predict() {
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'POST %s HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
    "$path" "${#1}" "$1" >&3
  local answer
  answer=$(cat <&3)
  exec 3>&-
  if [[ $answer != HTTP/1.*' 200 '* ]]; then
    echo "probe.sh: $path: ${answer:0:500}" >&2
    return 1
  fi
  printf '%s' "$answer"
}

answer=$(predict '{"signature_name": "initial_state", "inputs": {"seed": [[0, 0]]}}') || exit 1
# The text between the outer braces of {"outputs": {...}} is the state, as `act` takes it.
state=${answer#*\"outputs\"}
state=${state#*\{}
state=${state%\}*}
state=${state%\}*}
answer=$(predict "{\"signature_name\": \"act\", \"inputs\": {\"frame\": [[${frame%,}]],
  \"seed\": [[0, 0]], $state}}") || exit 1
if [[ $answer != *'"action"'* || $answer =~ NaN|[Ii]nfinity|null ]]; then
  echo "probe.sh: $path answered no action, or one that is not a number" >&2
  exit 1
fi
