// The beam search of asr/decoding: one utterance, speller and CTC prefix scores.

const FLOOR = -80;
const COVERED = 0.5; // attention, summed over characters, as in asr/onnx/speller.py

function logAdd(a, b) {
  const high = Math.max(a, b);
  if (high === -Infinity) return high;
  return high + Math.log1p(Math.exp(Math.min(a, b) - high));
}

/** CTC prefix scores; the formulas are in asr/decoding/ctc.py. */
export class CTCPrefix {
  /**
   * @param {Float32Array} logProbs (J, V) log P of the labels.
   * @param {number} steps J.
   * @param {{pad: number, sos: number, eos: number}} tokens the special ones.
   */
  constructor(logProbs, steps, tokens) {
    this.steps = steps;
    this.size = logProbs.length / steps;
    this.logProbs = Float64Array.from(logProbs, (p) => Math.max(p, FLOOR));
    this.probs = this.logProbs.map(Math.exp);
    this.tokens = tokens;
  }

  start() {
    const blank = new Float64Array(this.steps + 1);
    for (let j = 0; j < this.steps; j++) {
      blank[j + 1] = blank[j] + this.at(j, this.tokens.pad);
    }
    const last = this.tokens.pad;
    return { first: true, blank, either: blank, last, next: new Float64Array(this.size) };
  }

  at(step, token) {
    return this.logProbs[step * this.size + token];
  }

  /** Read one more token of a hypothesis: what each next one adds, and its state. */
  step(token, state) {
    const before = state.next[token];
    if (!state.first) state = this.append(token, state);
    const after = this.extend(state);
    if (!state.first) after[token] = this.repeat(token, state);
    const { pad, sos, eos } = this.tokens;
    for (const closed of [pad, sos, eos]) after[closed] = -Infinity;
    const scores = after.map((p) => (before === -Infinity ? p : Math.min(0, p - before)));
    if (before === -Infinity) scores.fill(-Infinity);
    else scores[eos] = Math.min(0, state.either[this.steps] - before);
    return [scores, { ...state, first: false, next: after }];
  }

  append(token, state) {
    const phi = token === state.last ? state.blank : state.either;
    const blank = new Float64Array(this.steps + 1).fill(-Infinity);
    const either = new Float64Array(this.steps + 1).fill(-Infinity);
    let n = -Infinity;
    for (let j = 0; j < this.steps; j++) {
      const began = logAdd(n, phi[j]);
      blank[j + 1] = logAdd(blank[j], n) + this.at(j, this.tokens.pad);
      n = began + this.at(j, token);
      either[j + 1] = logAdd(n, blank[j + 1]);
    }
    return { ...state, blank, either, last: token };
  }

  extend(state) {
    let highest = -Number.MAX_VALUE;
    for (let j = 0; j < this.steps; j++) highest = Math.max(highest, state.either[j]);
    const sums = new Float64Array(this.size);
    for (let j = 0; j < this.steps; j++) {
      const weight = Math.exp(state.either[j] - highest);
      if (weight === 0) continue;
      const row = j * this.size;
      for (let c = 0; c < this.size; c++) sums[c] += weight * this.probs[row + c];
    }
    return sums.map((sum) => Math.log(sum) + highest);
  }

  repeat(token, state) {
    let found = -Infinity;
    for (let j = 0; j < this.steps; j++) {
      found = logAdd(found, state.blank[j] + this.at(j, token));
    }
    return found;
  }
}

/** The speller's graph, many hypotheses at a time. */
export class Speller {
  constructor(ort, session, listened, width) {
    const [, steps] = listened.keys.dims;
    Object.assign(this, { ort, session, listened, width, steps });
    const ones = new Uint8Array(steps).fill(1);
    this.valid = new ort.Tensor("bool", ones, [1, steps]);
  }

  start() {
    const weights = new Float32Array(this.steps);
    weights[0] = 1;
    return { kept: new Float32Array(this.width), weights };
  }

  /** (K) last tokens -> log P of the next, V in a row, and the new state. */
  async step(tokens, state) {
    const { Tensor } = this.ort;
    const rows = tokens.length;
    const found = await this.session.run({
      tokens: new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, rows]),
      kept: new Tensor("float32", state.kept, [1, rows, this.width]),
      previous: new Tensor("float32", state.weights, [1, rows, this.steps]),
      memory: this.listened.memory,
      keys: this.listened.keys,
      valid: this.valid,
    });
    const after = { kept: found.new_kept.data, weights: found.weights.data };
    return [found.log_probs.data, after];
  }

  select(state, rows) {
    return {
      kept: gather(state.kept, rows, this.width),
      weights: gather(state.weights, rows, this.steps),
    };
  }
}

function gather(values, rows, size) {
  const found = new Float32Array(rows.length * size);
  rows.forEach((row, place) => {
    found.set(values.subarray(row * size, (row + 1) * size), place * size);
  });
  return found;
}

/** How many steps a hypothesis has by now looked at for more than half a character. */
function newlyCovered(attended, weights) {
  let found = 0;
  weights.forEach((weight, j) => {
    const before = attended[j];
    attended[j] += weight;
    if (attended[j] > COVERED && before <= COVERED) found++;
  });
  return found;
}

function score(logProb, tokens, config) {
  return logProb / (tokens + 1) ** config.length_norm;
}

/**
 * Follow the `beam_size` best hypotheses; see asr/decoding/search.py.
 *
 * @returns {Promise<number[]>} the tokens of the best, without <sos> and <eos>.
 */
export async function beamSearch(speller, ctc, config, tokens, limit) {
  const share = config.ctc_weight;
  const attended = new Float32Array(speller.steps);
  let live = [{ tokens: [], logProb: 0, ctc: ctc.start(), attended }];
  let state = speller.start();
  let falls = true; // no score was above zero so far: log P only falls
  const endings = [];
  for (let step = 0; ; step++) {
    const last = live.map((one) => one.tokens.at(-1) ?? tokens.sos);
    const [spelled, after] = await speller.step(last, state);
    const size = spelled.length / live.length;
    const found = [];
    const ended = [];
    live.forEach((one, row) => {
      let bonus = 0;
      if (config.coverage) {
        const steps = [row * speller.steps, (row + 1) * speller.steps];
        one.attended = one.attended.slice(); // that of its other extensions stays
        const newly = newlyCovered(one.attended, after.weights.subarray(...steps));
        bonus = config.coverage * newly;
      }
      const scores = Float64Array.from(
        spelled.subarray(row * size, (row + 1) * size),
        (p) => (p + bonus) * (1 - share),
      );
      if (share) {
        const [prefix, own] = ctc.step(last[row], one.ctc);
        one.ctc = own;
        prefix.forEach((p, c) => (scores[c] += share * p));
      }
      falls = falls && scores.every((p) => p <= 0);
      let ending = scores[tokens.eos];
      scores[tokens.eos] = -Infinity;
      const best = scores.reduce((a, b) => Math.max(a, b));
      const least = best * config.eos_threshold ** -Math.sign(best);
      if (config.eos_threshold !== null && ending < least) ending = -Infinity;
      ended.push(one.logProb + ending);
      scores.forEach((p, c) => found.push([one.logProb + p, row, c]));
    });
    found.sort((a, b) => b[0] - a[0]);
    found.length = Math.min(config.beam_size, found.length);
    const worst = found.at(-1)[0];
    live.forEach((one, row) => {
      if (ended[row] > worst) endings.push({ ...one, logProb: ended[row] });
    });
    const over = step >= limit || found[0][0] === -Infinity;
    if (over && !endings.length) endings.push(...live);
    if (over || endings.length >= config.beam_size) break;
    if (endings.length && falls) {
      const bound = score(found[0][0], limit, config);
      const scores = endings.map((one) => score(one.logProb, one.tokens.length, config));
      if (bound <= Math.min(...scores)) break;
    }
    live = found.map(([logProb, row, token]) => ({
      tokens: [...live[row].tokens, token],
      logProb,
      ctc: live[row].ctc,
      attended: live[row].attended,
    }));
    state = speller.select(after, found.map(([, row]) => row));
  }
  const ranked = (one) => score(one.logProb, one.tokens.length, config);
  return endings.reduce((a, b) => (ranked(b) > ranked(a) ? b : a)).tokens;
}

/** Feed a text to the speller: where it looks for each token and the end, (I, J). */
export async function attention(speller, text, sos) {
  const weights = new Float32Array((text.length + 1) * speller.steps);
  let state = speller.start();
  for (const [i, token] of [sos, ...text].entries()) {
    [, state] = await speller.step([token], state);
    weights.set(state.weights, i * speller.steps);
  }
  return weights;
}
