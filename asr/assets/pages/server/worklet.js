const RATE = 24000; // Hz: what the server's realtime API takes
const BLOCK = 2400; // samples: 0.1 s
const ZEROS = 16; // zero crossings of the filter, on each side

/** Turns the microphone's sound into blocks of 16-bit samples at 24 kHz. */
class Recorder extends AudioWorkletProcessor {
  #block = new Int16Array(BLOCK);
  #filled = 0;
  #resampler = sampleRate === RATE ? null : new Resampler(sampleRate);

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#send();
      this.port.postMessage(null); // that was all
      this.stopped = true;
    };
  }

  process([input]) {
    if (this.stopped) return false;
    if (!input.length) return true;
    let samples = input[0];
    if (input.length > 1) samples = samples.map((sample, n) => (sample + input[1][n]) / 2);
    if (this.#resampler) samples = this.#resampler.push(samples);
    for (const sample of samples) {
      this.#block[this.#filled++] = Math.max(-32768, Math.min(32767, Math.round(32767 * sample)));
      if (this.#filled === BLOCK) this.#send();
    }
    return true;
  }

  #send() {
    const block = this.#block.slice(0, this.#filled);
    this.port.postMessage(block, [block.buffer]);
    this.#filled = 0;
  }
}

/** Resamples to 24 kHz by a windowed sinc, for browsers whose microphone has a rate of its own. */
class Resampler {
  #past = [];
  #place; // of the next sample, in those of #past

  constructor(rate) {
    this.step = rate / RATE;
    this.cutoff = Math.min(1, 1 / this.step);
    this.reach = Math.ceil(ZEROS / this.cutoff);
    this.#past = new Array(this.reach).fill(0);
    this.#place = this.reach;
  }

  push(samples) {
    this.#past.push(...samples);
    const made = [];
    for (; this.#place + this.reach < this.#past.length; this.#place += this.step) made.push(this.#at(this.#place));
    const done = Math.floor(this.#place) - this.reach;
    this.#past.splice(0, done);
    this.#place -= done;
    return made;
  }

  #at(place) {
    let sum = 0;
    for (let n = Math.ceil(place - this.reach); n <= place + this.reach; n++) {
      const distance = (n - place) * this.cutoff;
      const x = Math.PI * distance;
      const sinc = Math.abs(x) < 1e-9 ? 1 : Math.sin(x) / x;
      sum += this.#past[n] * sinc * (0.5 + 0.5 * Math.cos(x / ZEROS)) * this.cutoff;
    }
    return sum;
  }
}

registerProcessor("recorder", Recorder);
