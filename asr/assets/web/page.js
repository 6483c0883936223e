// The page: a file or the microphone in, text and the attention's picture out.

const RATE = 48000; // the worker goes on to 16 kHz
const at = (id) => document.getElementById(id);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });

let ready = false;
let started = 0;
let recorder = null;

function show(message) {
  at("status").textContent = message;
}

function busy(is) {
  for (const id of ["file", "record", "sample"]) at(id).disabled = is;
}

worker.onerror = (event) => {
  show(`The recogniser cannot start (${event.message ?? "ort/ is missing: npm install"}).`);
};

worker.onmessage = ({ data }) => {
  if (data.type === "ready") {
    const { name, precision, search } = data.model;
    show(`${name}, ${precision}, beam of ${search.beam_size}. Nothing leaves this page.`);
    ready = true;
    busy(false);
    document.body.dataset.state = "ready";
  } else if (data.type === "piece") {
    const line = document.createElement("p");
    line.textContent = data.text || "(nothing was said)";
    at("text").append(line);
    if (data.text) at("pictures").append(picture(data));
  } else if (data.type === "done") {
    show(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`);
    busy(false);
    document.body.dataset.state = "done";
  } else {
    show(data.message);
    busy(!ready); // without a model there is nothing to try again
    document.body.dataset.state = "error";
  }
};

/** Have the content of an audio file recognised. */
async function recognize(content) {
  busy(true);
  document.body.dataset.state = "busy";
  at("text").replaceChildren();
  at("pictures").replaceChildren();
  show("Listening …");
  started = performance.now();
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const sound = await context.decodeAudioData(content);
    const mixed = new Float32Array(sound.length);
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      const own = sound.getChannelData(channel);
      for (let n = 0; n < own.length; n++) mixed[n] += own[n] / sound.numberOfChannels;
    }
    worker.postMessage({ samples: mixed }, [mixed.buffer]);
  } catch (error) {
    show(`This is no audio that the browser can read (${error.message}).`);
    busy(false);
  }
}

at("file").onchange = async (event) => {
  const [file] = event.target.files;
  if (file) await recognize(await file.arrayBuffer());
};

at("sample").onclick = async () => {
  const answer = await fetch("sample.opus");
  await recognize(await answer.arrayBuffer());
};

at("record").onclick = async () => {
  if (recorder) {
    recorder.stop();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      for (const track of stream.getTracks()) track.stop();
      recorder = null;
      at("record").textContent = "Record";
      await recognize(await new Blob(parts).arrayBuffer());
    };
    recorder.start();
    at("record").textContent = "Stop";
    show("Recording …");
  } catch (error) {
    recorder = null;
    show(`The microphone cannot be used (${error.message}).`);
  }
};

/** Draw where the model looked for each letter: a row a letter, a column a step. */
function picture({ letters, weights, steps, secondsPerStep, start }) {
  const row = 12;
  const column = Math.max(2, Math.floor(900 / steps));
  const [left, below] = [24, 18];
  const canvas = document.createElement("canvas");
  canvas.width = left + steps * column;
  canvas.height = letters.length * row + below;
  const ink = canvas.getContext("2d");
  ink.font = "11px monospace";
  letters.forEach((letter, i) => {
    ink.fillStyle = "#333";
    ink.fillText(letter === " " ? "·" : letter, 6, (i + 1) * row - 2);
    for (let j = 0; j < steps; j++) {
      ink.fillStyle = `rgba(20, 60, 160, ${weights[i * steps + j]})`;
      ink.fillRect(left + j * column, i * row, column, row);
    }
  });
  ink.fillStyle = "#333";
  for (let second = 0; second < steps * secondsPerStep; second++) {
    const x = left + (second / secondsPerStep) * column;
    ink.fillText(`${(start + second).toFixed(0)} s`, x, letters.length * row + 14);
  }
  return canvas;
}
