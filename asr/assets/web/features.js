// From a waveform to the listener's input: the same as asr/features.py.
//
//     m_tf = max(log(sum_k M_fk |FFT(window * x_t)_k|^2), peak - 80 dB)
//     y_tf = m_tf - mean_t m_tf

const WINDOW = 400;
const HOP = 160;
const FFT = 512;
const BINS = FFT / 2 + 1;
export const MELS = 80;
export const FRAMES_PER_SECOND = 100;

const hann = Float64Array.from(
  { length: WINDOW },
  (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW),
);
const cosines = Float64Array.from({ length: FFT / 2 }, (_, k) =>
  Math.cos((2 * Math.PI * k) / FFT),
);
const sines = Float64Array.from({ length: FFT / 2 }, (_, k) =>
  Math.sin((2 * Math.PI * k) / FFT),
);

const TIMES = 3;

/**
 * Go from 48 kHz to 16 kHz, by a windowed sinc that is flat up to 7 kHz: nearer to what
 * asr reads from a file than a browser's own way to 16 kHz, which changed a text.
 *
 * @param {Float32Array} samples at 48 kHz.
 * @returns {Float32Array} at 16 kHz.
 */
export function decimated(samples) {
  const reach = 48 * TIMES;
  const cutoff = 0.94 / TIMES;
  const taps = Float64Array.from({ length: 2 * reach + 1 }, (_, k) => {
    const x = k - reach;
    const sinc = x === 0 ? cutoff : Math.sin(Math.PI * cutoff * x) / (Math.PI * x);
    const turn = (Math.PI * x) / reach;
    return sinc * (0.42 + 0.5 * Math.cos(turn) + 0.08 * Math.cos(2 * turn));
  });
  const found = new Float32Array(Math.ceil(samples.length / TIMES));
  for (let n = 0; n < found.length; n++) {
    let sum = 0;
    for (let k = 0; k < taps.length; k++) {
      sum += taps[k] * (samples[n * TIMES + k - reach] ?? 0);
    }
    found[n] = sum;
  }
  return found;
}

/** Fourier transform of FFT points, in place. */
function transform(re, im) {
  for (let i = 1, j = 0; i < FFT; i++) {
    let bit = FFT >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= FFT; size <<= 1) {
    const half = size >> 1;
    const stride = FFT / size;
    for (let start = 0; start < FFT; start += size) {
      for (let k = 0; k < half; k++) {
        const c = cosines[k * stride];
        const s = -sines[k * stride];
        const a = start + k;
        const b = a + half;
        const x = re[b] * c - im[b] * s;
        const y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
}

/**
 * Make the features of one utterance.
 *
 * @param {Float32Array} waveform samples at 16 kHz, at least one.
 * @param {Float32Array} filters (BINS, MELS) share of each frequency in each band.
 * @returns {Float32Array} (T, MELS), T = 1 + floor(N / 160).
 */
export function logMel(waveform, filters) {
  const frames = 1 + Math.floor(waveform.length / HOP);
  const power = new Float64Array(frames * MELS);
  const margin = (FFT - WINDOW) / 2;
  let peak = 0;
  for (let t = 0; t < frames; t++) {
    const re = new Float64Array(FFT);
    const im = new Float64Array(FFT);
    for (let n = 0; n < WINDOW; n++) {
      const at = t * HOP + n - WINDOW / 2;
      if (at >= 0 && at < waveform.length) re[margin + n] = waveform[at] * hann[n];
    }
    transform(re, im);
    for (let k = 0; k < BINS; k++) {
      const square = re[k] * re[k] + im[k] * im[k];
      for (let f = 0; f < MELS; f++) {
        power[t * MELS + f] += square * filters[k * MELS + f];
      }
    }
    for (let f = 0; f < MELS; f++) peak = Math.max(peak, power[t * MELS + f]);
  }
  const floor = Math.max(peak * 1e-8, 1e-20);
  const features = new Float32Array(frames * MELS);
  for (let f = 0; f < MELS; f++) {
    let sum = 0;
    for (let t = 0; t < frames; t++) {
      const value = Math.log(Math.max(power[t * MELS + f], floor));
      power[t * MELS + f] = value;
      sum += value;
    }
    for (let t = 0; t < frames; t++) {
      features[t * MELS + f] = power[t * MELS + f] - sum / frames;
    }
  }
  return features;
}
