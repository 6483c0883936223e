import { unpacked } from "./player.js";

const MOST_PIXELS = 16000; // of a canvas, across
const LANE = 18; // pixels of a row of labels
const WAVEFORM = 64;
const SPECTROGRAM = 128;
const ATTENTION = 620; // wished of a map; more where the rows would be too thin
const CAPTION = 24; // above each of several maps
const [THINNEST, THICKEST] = [3, 13]; // rows of the attention
const LEGIBLE = 11; // rows that have room for their token
const END = "\u220e"; // the token of the row in which the text ends

/** Make an element with classes, text and attributes. */
export function make(tag, classes = "", text = "", attributes = {}) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** What a colour of the style sheet is now, in light or dark. */
function colour(name) {
  const probe = document.body.appendChild(make("i"));
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** 256 colours, as [r, g, b, a, r, g, ...], over three of the style sheet. */
function palette(name) {
  const context = new OffscreenCanvas(256, 1).getContext("2d");
  const gradient = context.createLinearGradient(0, 0, 256, 0);
  for (const stop of [0, 1, 2]) gradient.addColorStop(stop / 2, colour(`${name}-${stop}`));
  context.fillStyle = gradient;
  context.fillRect(0, 0, 256, 1);
  return context.getImageData(0, 0, 256, 1).data;
}

/** Colour some columns of a matrix, a pixel a number. */
function picture(matrix, colours, from = 0, to = matrix.columns) {
  const image = new ImageData(Math.max(1, to - from), matrix.rows);
  const pixels = new Uint32Array(image.data.buffer);
  const inks = new Uint32Array(colours.buffer);
  for (let row = 0, pixel = 0; row < matrix.rows; row++)
    for (let column = from; column < to; column++)
      pixels[pixel++] = inks[matrix.data[row * matrix.columns + column]];
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Make a canvas as sharp as the screen; the context's unit is a CSS pixel. */
function sharp(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = Math.min(devicePixelRatio, MOST_PIXELS / width);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return { context, width, height };
}

/** Paint the waveform from one time to another, stronger where a word is. */
export function paintWaveform(canvas, { least, greatest, seconds_per_column }, start, end, words) {
  const { context, width, height } = sharp(canvas);
  const perPixel = (end - start) / width;
  const inside = new Uint8Array(width + 1);
  for (const word of words)
    inside.fill(1, (word.start - start) / perPixel, (word.end - start) / perPixel + 1);
  const inks = [colour("wave-between"), colour("wave")];
  for (let x = 0; x < width; x++) {
    const from = Math.floor((start + x * perPixel) / seconds_per_column);
    const to = Math.max(from + 1, Math.floor((start + (x + 1) * perPixel) / seconds_per_column));
    let low = 255, high = 0;
    for (let column = from; column < Math.min(to, least.columns); column++) {
      low = Math.min(low, least.data[column]);
      high = Math.max(high, greatest.data[column]);
    }
    if (low > high) continue; // behind the end
    const y = (value) => ((255 - value) / 255) * (height - 4) + 2;
    context.fillStyle = inks[inside[x]];
    context.fillRect(x, y(high), 1, Math.max(1, y(low) - y(high)));
  }
}

export const clockTime = (seconds, digits = 0) => {
  const unit = 10 ** digits;
  const rounded = Math.round(seconds * unit) / unit;
  const minutes = Math.floor(rounded / 60);
  return `${minutes}:${(rounded - 60 * minutes).toFixed(digits).padStart(digits ? 3 + digits : 2, "0")}`;
};
export const level = (confidence) => (confidence < 0.5 ? "low" : confidence < 0.8 ? "middle" : "high");

/** What the model writes, one after the other: alternatives are scored by it. */
export const unit = ({ attention }) =>
  (attention?.tokens ?? []).every((token) => /^.\p{M}*$/su.test(token)) ? "character" : "subword";

/** What is painted of an attention: its weights, and of one with blocks its two looks. */
function mapsOf({ attention }, unit) {
  if (!attention) return [];
  const whole = { name: `Where the model looked for each ${unit}`, packed: attention };
  if (!attention.blocks) return [whole];
  const { inside, across } = attention.blocks;
  const seconds = Number(across.seconds_per_column.toFixed(2));
  const named = (name, packed) => ({ name, caption: name, packed, block: across.seconds_per_column });
  return [
    named("Where the model looked: the product of both", attention),
    named(`Inside: where it would look in each block of ${seconds} s`, inside),
    named("Across: which of the blocks it looked at", across),
  ];
}

/** One segment on its time axis: words, waveform, spectrogram, attention. */
export class Strip {
  #fresh = false;
  #visible = false;

  constructor(segment, number, sound) {
    this.segment = segment;
    this.sound = sound; // {waveform, spectrogram}, unpacked
    this.labels = [];
    this.rowNames = [];
    this.#build(number);
  }

  #build(number) {
    const { segment } = this;
    this.element = make("article", "strip", "", { id: `segment-${number}` });
    const title = this.element.appendChild(make("h3", "", `${clockTime(segment.start, 1)} – ${clockTime(segment.end, 1)} `));
    if (segment.confidence !== null)
      title.append(make("small", "", `mean confidence ${percent(segment.confidence)}`));
    for (const flag of segment.flags) this.element.append(make("p", `flag ${flag.name}`, flag.about));
    const body = this.element.appendChild(make("div", "body"));
    this.gutter = body.appendChild(make("div", "gutter", "", { "aria-hidden": "true" }));
    this.scroller = body.appendChild(make("div", "scroller"));
    this.plot = this.scroller.appendChild(make("div", "plot"));
    this.words = this.plot.appendChild(make("div", "words", "", { "aria-hidden": "true" }));
    this.waveform = this.#track("Waveform", WAVEFORM);
    this.spectrogram = this.#track("Spectrogram", SPECTROGRAM);
    this.axis = this.plot.appendChild(make("div", "track axis", "", { "aria-hidden": "true" }));
    this.maps = mapsOf(segment, unit(segment));
    for (const map of this.maps) this.#buildMap(map);
    this.element.classList.toggle("blocks", this.maps.length > 1);
    this.span = this.plot.appendChild(make("div", "span"));
    this.head = this.plot.appendChild(make("div", "head"));
    for (const mark of [this.span, this.head, ...this.maps.map(({ rows }) => rows)]) mark.hidden = true;
    for (const word of segment.words) this.#label(word);
    if (segment.text && !segment.attention)
      this.element.append(make("p", "missing", "Where the model looked was not kept for this piece."));
    if (segment.nbest.length) this.element.append(this.#hypotheses());
  }

  #buildMap(map) {
    if (map.caption) {
      const caption = this.plot.appendChild(make("div", "track caption", "", { "aria-hidden": "true" }));
      caption.style.height = `${CAPTION}px`;
      caption.append(make("span", "", map.caption));
    }
    map.canvas = this.#track(map.name, 0);
    map.rows = map.canvas.parentElement.appendChild(make("div", "rows"));
  }

  #track(name, height) {
    const track = this.plot.appendChild(make("div", "track"));
    track.style.height = `${height}px`;
    return track.appendChild(make("canvas", "", "", { role: "img", "aria-label": name }));
  }

  #label(word) {
    const label = this.words.appendChild(make("div", `label ${level(word.confidence)}`));
    label.append(make("b", "", word.text));
    label.style.setProperty("--confidence", word.confidence);
    label.style.left = this.#left(word.start);
    label.style.width = `${(100 * (word.end - word.start)) / this.#duration}%`;
    this.labels.push(label);
  }

  #hypotheses() {
    const details = make("details");
    const { nbest } = this.segment;
    details.append(make("summary", "", nbest.length > 1 ? `All ${nbest.length} hypotheses` : "The only hypothesis"));
    const table = details.appendChild(make("table"));
    const head = table.appendChild(make("tr"));
    head.append(make("th", "score", `log P per ${unit(this.segment)}`, { scope: "col" }), make("th", "", "", { "aria-label": "Text" }));
    for (const { text, score } of nbest) {
      const row = table.appendChild(make("tr"));
      row.append(make("td", "score", score.toFixed(3)), make("td", "", text || "(nothing)"));
    }
    return details;
  }

  get #duration() {
    return Math.max(0.01, this.segment.end - this.segment.start);
  }

  #left(time) {
    return `${(100 * (time - this.segment.start)) / this.#duration}%`;
  }

  /** Measure what does not change with the window; all strips first, then they are laid. */
  measure() {
    this.boxes = this.labels.map((label) => label.firstChild.offsetWidth + 4);
  }

  /** Lay out for so much room; what is in sight is painted, the rest when it comes. */
  lay(room, pixelsPerSecond, zoom) {
    const wished = this.#duration * pixelsPerSecond;
    this.width = wished > 0.93 * room ? Math.max(room, wished) : wished; // nearly full is full
    this.plot.style.width = `${this.width}px`;
    const attention = this.segment.attention;
    if (attention) {
      const height = Math.floor(ATTENTION / attention.rows);
      this.rowHeight = Math.min(THICKEST, Math.max(THINNEST, height)) * zoom;
      for (const { canvas } of this.maps) canvas.parentElement.style.height = `${this.rowHeight * attention.rows}px`;
    }
    this.#layLabels();
    this.#layAxis();
    this.#layGutter();
    this.stale();
  }

  /** Put labels side by side where they have room, and else above each other. */
  #layLabels() {
    const ends = [];
    const lanes = this.segment.words.map((word, index) => {
      const left = ((word.start - this.segment.start) / this.#duration) * this.width;
      const shift = Math.min(0, this.width - left - this.boxes[index]); // the last one stays inside
      let lane = ends.findIndex((end) => end <= left + shift);
      if (lane < 0) lane = ends.length;
      ends[lane] = left + shift + this.boxes[index];
      this.labels[index].firstChild.style.marginLeft = `${shift}px`;
      return lane;
    });
    this.top = ends.length ? ends.length * LANE + 8 : 0;
    this.words.style.height = `${this.top}px`;
    lanes.forEach((lane, index) => {
      this.labels[index].style.height = `${(lane + 1) * LANE + 6}px`;
      this.labels[index].style.zIndex = ends.length - lane; // a line goes behind the names below
    });
  }

  #layAxis() {
    const { start, end } = this.segment;
    const wished = (70 * this.#duration) / this.width;
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30].find((s) => s >= wished) ?? 60;
    this.axis.replaceChildren();
    for (let tick = Math.ceil(start / step - 1e-6); tick * step < end - 0.3 * step; tick++) {
      const mark = this.axis.appendChild(make("span", "", step < 1 ? clockTime(tick * step, 1) : clockTime(tick * step)));
      mark.style.left = this.#left(tick * step);
    }
  }

  #layGutter() {
    const { top } = this;
    this.gutter.replaceChildren();
    const put = (text, y, classes = "") => {
      const label = this.gutter.appendChild(make("span", classes, text));
      label.style.top = `${y}px`;
      return label;
    };
    if (this.labels.length) put("words", top - 15, "name");
    put("wave", top + WAVEFORM / 2);
    // Slaney's mel scale: linear to 1 kHz, where it is 15, and logarithmic above.
    const mel = (hertz) => (hertz < 1000 ? (3 * hertz) / 200 : 15 + (27 * Math.log(hertz / 1000)) / Math.log(6.4));
    for (const hertz of [500, 1000, 2000, 4000])
      put(`${hertz / 1000} kHz`, top + WAVEFORM + SPECTROGRAM * (1 - mel(hertz) / mel(8000)));
    put("time", top + WAVEFORM + SPECTROGRAM + 10);
    let y = top + WAVEFORM + SPECTROGRAM + 20;
    this.rowNames = [];
    for (const { caption, packed } of this.maps) {
      if (caption) y += CAPTION;
      this.rowNames.push(...this.#layRowNames(put, y));
      y += this.rowHeight * packed.rows;
    }
  }

  /** Name each row, or where rows are thin, those of each word together. */
  #layRowNames(put, top) {
    const names = [];
    if (this.rowHeight >= LEGIBLE)
      this.segment.attention.tokens.forEach((token, row) => {
        const name = token === END ? "end" : token.replace(" ", "␣");
        names.push({ row, label: put(name, top + (row + 0.5) * this.rowHeight) });
      });
    else
      for (const { text, rows } of this.segment.words) {
        if (!rows) continue;
        const middle = top + ((rows[0] + rows[1]) / 2) * this.rowHeight;
        if (middle < (names.at(-1)?.middle ?? 0) + 11) continue; // no room
        names.push({ row: rows[0], middle, label: put(text, middle) });
      }
    return names;
  }

  /** Paint again, now if it is in sight. */
  stale() {
    this.#fresh = false;
    if (this.#visible) this.paint();
  }

  seen(visible) {
    this.#visible = visible;
    if (visible && !this.#fresh) this.paint();
  }

  async paint() {
    this.#fresh = true;
    const { segment, sound } = this;
    paintWaveform(this.waveform, sound.waveform, segment.start, segment.end, segment.words);
    this.#paintSpectrogram();
    await this.unpack();
    for (const map of this.maps) this.#paintMap(map);
  }

  async unpack() {
    for (const map of this.maps) map.matrix ??= await unpacked(map.packed);
  }

  #paintSpectrogram() {
    const { start, end } = this.segment;
    const matrix = this.sound.spectrogram;
    const { context, width, height } = sharp(this.spectrogram);
    const from = Math.max(0, Math.floor(start / matrix.seconds_per_column));
    const to = Math.min(matrix.columns, Math.ceil(end / matrix.seconds_per_column) + 1);
    // A frame is computed from the sound around its time, so its column stands around it, too.
    const x = (column) => (((column - 0.5) * matrix.seconds_per_column - start) / this.#duration) * width;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture(matrix, palette("sound"), from, to), x(from), 0, x(to) - x(from), height);
    context.fillStyle = colour("accent");
    context.globalAlpha = 0.35;
    for (const word of this.segment.words)
      for (const time of [word.start, word.end])
        context.fillRect(Math.round(((time - start) / this.#duration) * width), 0, 1, height);
  }

  #paintMap({ canvas, matrix, block }) {
    const { start, tokens } = this.segment.attention;
    const { context, width, height } = sharp(canvas);
    const colours = palette("look");
    const x = (time) => ((time - this.segment.start) / this.#duration) * width;
    const end = start + matrix.columns * matrix.seconds_per_column;
    context.fillStyle = colour("look-0");
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(picture(matrix, colours), x(start), 0, x(end) - x(start), height);
    context.fillStyle = colour("soft");
    context.globalAlpha = 0.16;
    for (let edge = start + block; edge < end; edge += block) context.fillRect(Math.round(x(edge)), 0, 1, height);
    tokens.forEach((token, row) => {
      if (!token.startsWith(" ")) return;
      const line = token === " " ? row + 0.5 : row; // a subword begins with its space
      context.fillRect(0, Math.round(line * this.rowHeight), width, 1);
    });
  }

  /** Mark a word's span and rows, or none. */
  mark(index) {
    this.labels.forEach((label, other) => label.classList.toggle("marked", other === index));
    const word = this.segment.words[index];
    this.span.hidden = !word;
    for (const { rows } of this.maps) rows.hidden = !word?.rows;
    for (const { row, label } of this.rowNames)
      label.classList.toggle("marked", Boolean(word?.rows) && row >= word.rows[0] && row < word.rows[1]);
    if (!word) return;
    this.span.style.left = this.#left(word.start);
    this.span.style.width = `${(100 * (word.end - word.start)) / this.#duration}%`;
    if (!word.rows) return;
    for (const { rows } of this.maps) {
      rows.style.top = `${word.rows[0] * this.rowHeight}px`;
      rows.style.height = `${(word.rows[1] - word.rows[0]) * this.rowHeight}px`;
    }
  }

  /** Show the playhead, if it is here. */
  play(time) {
    const { start, end } = this.segment;
    this.head.hidden = !(time >= start && time <= end);
    if (this.head.hidden) return;
    this.head.style.left = this.#left(time);
    const x = ((time - start) / this.#duration) * this.width - this.scroller.scrollLeft;
    if (x < 0 || x > this.scroller.clientWidth) this.scroller.scrollLeft += x - 40;
  }

  /** The time under the mouse. */
  time(event) {
    const box = this.plot.getBoundingClientRect();
    return this.segment.start + ((event.clientX - box.left) / box.width) * this.#duration;
  }

  /** The word under the mouse: by its row in the attention, and by its time elsewhere. */
  wordAt(event) {
    const label = event.target.closest(".label");
    if (label) return this.labels.indexOf(label);
    if (this.maps.some(({ canvas }) => canvas === event.target)) {
      const row = (event.clientY - event.target.getBoundingClientRect().top) / this.rowHeight;
      return this.segment.words.findIndex(({ rows }) => rows && row >= rows[0] && row < rows[1]);
    }
    const time = this.time(event);
    return this.segment.words.findIndex(({ start, end }) => time >= start && time < end);
  }
}

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}
