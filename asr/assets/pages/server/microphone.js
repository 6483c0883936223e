export const RATE = 24000;
/** What browsers do for calls distorts speech; only its level is of use. */
const SOUND = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
const WORKLET = new URL("./worklet.js", import.meta.url);

/** The microphone, as blocks of 16-bit samples at 24 kHz. */
export class Microphone {
  #stream;
  #context;
  #node;
  #ended;
  blocks = [];
  length = 0; // samples

  /** @param {(block: Int16Array) => void} onBlock called with each block, ten times a second */
  constructor(onBlock) {
    this.onBlock = onBlock;
  }

  /** Begin; the browser asks for permission, where it has not been given. */
  async start() {
    if (!navigator.mediaDevices)
      throw new Error("A browser gives the microphone to pages of https and of localhost only: choose a file instead.");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio: SOUND });
    } catch (error) {
      throw new Error(refusals[error.name] ?? `The microphone cannot be used: ${error.message}`);
    }
    try {
      await this.#listen({ sampleRate: RATE }).catch(() => this.#listen({})); // without resampling: the worklet does it
    } catch (error) {
      await this.#switchOff();
      throw error;
    }
  }

  async #listen(options) {
    await this.#context?.close();
    this.#context = new AudioContext(options);
    await this.#context.audioWorklet.addModule(WORKLET);
    this.#node = new AudioWorkletNode(this.#context, "recorder", { numberOfOutputs: 0 });
    this.#context.createMediaStreamSource(this.#stream).connect(this.#node);
    this.#ended = new Promise((resolve) => {
      this.#node.port.onmessage = ({ data }) => {
        if (data === null) return resolve();
        if (!data.length) return;
        this.blocks.push(data);
        this.length += data.length;
        this.onBlock(data);
      };
    });
  }

  /** End, once the last samples are here. */
  async stop() {
    this.#node?.port.postMessage(null);
    await this.#ended;
    await this.#switchOff();
  }

  async #switchOff() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    await this.#context?.close();
  }

  get seconds() {
    return this.length / RATE;
  }

  /** All that was recorded, as a WAV file. */
  wav() {
    return new Blob([wavHead(2 * this.length), ...this.blocks], { type: "audio/wav" });
  }
}

const refusals = {
  NotAllowedError: "The browser was not allowed to use the microphone (allow it beside the address, or choose a file).",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone is in use by another program.",
};

/** The 44 bytes before so many bytes of 16-bit samples. */
function wavHead(size) {
  const head = new DataView(new ArrayBuffer(44));
  const put = (place, text) => [...text].forEach((letter, n) => head.setUint8(place + n, letter.charCodeAt(0)));
  put(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  put(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // channel
  head.setUint32(24, RATE, true);
  head.setUint32(28, 2 * RATE, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  put(36, "data");
  head.setUint32(40, size, true);
  return head.buffer;
}

/** How loud a block is, 0 to 1 over 50 dB. */
export function loudness(block) {
  let sum = 0;
  for (const sample of block) sum += (sample / 32768) ** 2;
  return Math.max(0, Math.min(1, 1 + Math.log10(sum / block.length + 1e-12) / 5));
}
