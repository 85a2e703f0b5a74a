// node run.mjs MODEL: inputs as JSON on stdin ([{dims, data}, ...]), the first output of each run as JSON on stdout.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
const model = readFileSync(process.argv[2]);
const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
const answers = [];
for (const { dims, data } of JSON.parse(readFileSync(0, "utf8"))) {
  const x = new ort.Tensor("float32", Float32Array.from(data), dims);
  const y = (await session.run({ [session.inputNames[0]]: x }))[session.outputNames[0]];
  answers.push({ dims: y.dims, data: Array.from(y.data) });
}
console.log(JSON.stringify(answers));
