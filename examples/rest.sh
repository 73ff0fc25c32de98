#!/bin/sh
# Asks a served planner or controller for two actions over REST, with curl, and jq for the JSON.
#
#   sh examples/rest.sh localhost:8501 planner
set -eu
for tool in curl jq; do
  command -v $tool > /dev/null || {
    echo "rest.sh: $tool is not installed" >&2
    exit 1
  }
done
url=http://${1:-localhost:8501}/v1/models/${2:-planner}

# predict SIGNATURE: calls it with the columnar inputs on standard input.
predict() {
  jq -c --arg signature "$1" '{signature_name: $signature, inputs: .}' |
    curl --silent --show-error --fail-with-body --max-time 60 --data-binary @- "$url:predict" |
    jq -c .outputs
}

echo "versions:"
curl --silent --show-error --fail-with-body "$url" | jq -c '.model_version_status[] | {version, state}'
echo "signatures:"
curl --silent --show-error --fail-with-body "$url/metadata" |
  jq -c '.metadata.signature_def.signature_def | keys'

frame=$(jq -nc '[[range(64) | [range(64) | [0, 0, 0]]]]') # Black, of the size that the agent sees.

# The state travels: what a call answers goes into the next one, as it came.
state=$(echo '{"seed": [[7, 0]]}' | predict initial_state)
echo "actions:"
for step in 0 1; do
  outputs=$(echo "$frame" | jq -c --argjson step $step --argjson state "$state" \
    '{frame: ., seed: [[7, $step]]} + $state' | predict act)
  echo "$outputs" | jq -c '.action[0]'
  state=$(echo "$outputs" | jq -c --argjson old "$state" 'with_entries(select(.key | in($old)))')
done
