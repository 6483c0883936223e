// Recognises off the page's own thread: listener, search, attention.

import * as ort from "./ort/ort.wasm.min.mjs";
import { FRAMES_PER_SECOND, MELS, decimated, logMel } from "./features.js";
import { CTCPrefix, Speller, attention, beamSearch } from "./search.js";

const RATE = 16000;
const LONGEST = 15 * RATE;
const MOST_CHARACTERS = 25; // a second
const SILENCE = 1e-4;

ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;

const loaded = load();

async function load() {
  const read = async (name) => {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: cannot be read (${answer.status})`);
    return answer;
  };
  const model = await (await read("model.json")).json();
  const filters = new Float32Array(await (await read("mel.f32")).arrayBuffer());
  const session = async (name) =>
    ort.InferenceSession.create(await (await read(name)).arrayBuffer());
  const listener = await session("listener.onnx");
  const step = await session("speller_step.onnx");
  return { model, filters, listener, step };
}

loaded.then(
  ({ model }) => postMessage({ type: "ready", model }),
  (error) => postMessage({ type: "error", message: String(error.message ?? error) }),
);

onmessage = async ({ data }) => {
  try {
    const parts = await loaded;
    const whole = decimated(data.samples);
    for (const [start, end] of pieces(whole)) {
      const samples = whole.subarray(start, end);
      const found = await recognize(parts, samples);
      postMessage({ type: "piece", start: start / RATE, end: end / RATE, ...found });
    }
    postMessage({ type: "done" });
  } catch (error) {
    postMessage({ type: "error", message: String(error.message ?? error) });
  }
};

/** Cut what is longer than 15 s where it is quietest, in the second two thirds. */
function* pieces(samples) {
  let start = 0;
  while (samples.length - start > LONGEST) {
    const hop = RATE / 5;
    let end = start + LONGEST;
    let quietest = Infinity;
    for (let at = start + LONGEST / 3; at + hop <= start + LONGEST; at += hop / 4) {
      let energy = 0;
      for (let n = at; n < at + hop; n++) energy += samples[n] ** 2;
      if (energy < quietest) [quietest, end] = [energy, at + hop / 2];
    }
    yield [start, end];
    start = end;
  }
  yield [start, samples.length];
}

async function recognize({ model, filters, listener, step }, samples) {
  const loud = samples.some((sample) => Math.abs(sample) >= SILENCE);
  if (!loud || samples.length < RATE / 10) return { text: "" };
  const features = logMel(samples, filters);
  const frames = features.length / MELS;
  const listened = await listener.run({
    features: new ort.Tensor("float32", features, [1, frames, MELS]),
    num_frames: new ort.Tensor("int64", BigInt64Array.of(BigInt(frames)), [1]),
  });
  const { data, dims } = listened.ctc_log_probs;
  const ctc = new CTCPrefix(data, dims[1], model.tokens);
  const speller = new Speller(ort, step, listened, model.kept);
  const limit = Math.trunc((frames / FRAMES_PER_SECOND) * MOST_CHARACTERS) + 5;
  const tokens = await beamSearch(speller, ctc, model.search, model.tokens, limit);
  const letters = tokens.map((token) => model.pieces[token]);
  return {
    text: letters.join("").split(" ").filter(Boolean).join(" "),
    letters: [...letters, "∎"],
    weights: await attention(speller, tokens, model.tokens.sos),
    steps: speller.steps,
    secondsPerStep: model.reduction / FRAMES_PER_SECOND,
  };
}
