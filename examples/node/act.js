// Asks a served planner or controller for actions, from Node.
//
//   npm ci && node act.js localhost:8500 planner 5
//
// Prints one line of JSON for each step: {"step":0,"action":[...],"version":"1"}. The frames are
// grey; a real client sends what its camera or simulator shows.

'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const definition = protoLoader.loadSync('serving.proto', {
  includeDirs: [path.join(__dirname, '..', 'protos')],
  keepCase: true,
  defaults: true,
  longs: String,
  enums: String,
});
const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;

const shapeOf = (...sizes) => ({ dim: sizes.map((size) => ({ size })) });
const int32 = (values, ...sizes) => ({
  dtype: 'DT_INT32', tensor_shape: shapeOf(...sizes), int_val: values,
});
const uint8 = (bytes, ...sizes) => ({
  dtype: 'DT_UINT8', tensor_shape: shapeOf(...sizes), tensor_content: bytes,
});

// A server answers typed fields, or raw bytes if it is told to.
function numbers(tensor) {
  if (tensor.dtype === 'DT_INT64') {
    const raw = tensor.tensor_content;
    return raw.length
      ? Array.from({ length: raw.length / 8 }, (_, i) => Number(raw.readBigInt64LE(8 * i)))
      : tensor.int64_val.map(Number);
  }
  if (tensor.tensor_content.length) {
    const read = { DT_FLOAT: 'readFloatLE', DT_INT32: 'readInt32LE' }[tensor.dtype];
    const raw = tensor.tensor_content;
    return Array.from({ length: raw.length / 4 }, (_, i) => raw[read](4 * i));
  }
  return tensor.dtype === 'DT_FLOAT' ? tensor.float_val : tensor.int_val;
}

class Planner {
  constructor(target, model) {
    this.model = model;
    this.stub = new PredictionService(target, grpc.credentials.createInsecure());
  }

  predict(signature, inputs) {
    const request = { model_spec: { name: this.model, signature_name: signature }, inputs };
    const deadline = Date.now() + 60_000;
    return new Promise((resolve, reject) => {
      this.stub.Predict(request, { deadline }, (error, response) =>
        error ? reject(error) : resolve(response));
    });
  }

  async reset(seed) {
    this.seed = seed;
    this.step = 0;
    this.state = (await this.predict('initial_state', { seed: int32([seed, 0], 1, 2) })).outputs;
    const spec = (await this.predict('spec', { seed: int32([0, 0], 1, 2) })).outputs;
    this.frameSize = numbers(spec.frame_size);
  }

  // The state travels: what a call answers goes into the next one, as it came.
  async act(frame) {
    const response = await this.predict('act', {
      frame: uint8(frame, 1, ...this.frameSize, 3),
      seed: int32([this.seed, this.step], 1, 2),
      ...this.state,
    });
    for (const name of Object.keys(this.state)) this.state[name] = response.outputs[name];
    this.step += 1;
    return { action: numbers(response.outputs.action), version: response.model_spec.version.value };
  }
}

async function main(target = 'localhost:8500', model = 'planner', steps = '5') {
  const planner = new Planner(target, model);
  await planner.reset(7);
  const [height, width] = planner.frameSize;
  for (let step = 0; step < Number(steps); step += 1) {
    const frame = Buffer.alloc(height * width * 3, 100 + step);
    console.log(JSON.stringify({ step, ...(await planner.act(frame)) }));
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(`${error.code === undefined ? '' : `${grpc.status[error.code]}: `}${error.message}`);
  process.exitCode = 1;
});
