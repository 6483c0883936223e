import { Player, unpacked } from "./player.js";
import { Strip, clockTime, level, make, paintWaveform, percent, unit } from "./strip.js";

const ZOOMS = [1, 1.5, 2, 3, 4];
const FEWEST_PIXELS = 62; // of a second
const MOST_ALTERNATIVES = 6; // shown of a word

const at = (id) => document.getElementById(id);

/** Shows a recording in the elements of view.html. */
export class View {
  #data;
  #card = at("card");
  #overview = at("overview");
  #sound;
  #strips;
  #player;
  #words = []; // {word, strip, index, button}, in the order of time
  #zoom = 0;
  #marked = null;
  #playing = null; // the word
  #closed = new AbortController();

  /** @param {object} data what asr.reports.recording_page.page_data returned */
  constructor(data) {
    this.#data = data;
  }

  /** Fill in all that is to be seen; comes back when it is ready. */
  async show() {
    const data = this.#data;
    const { waveform, spectrogram } = data;
    this.#sound = {
      waveform: {
        ...waveform,
        least: await unpacked(waveform.least),
        greatest: await unpacked(waveform.greatest),
      },
      spectrogram: { ...spectrogram, ...(await unpacked(spectrogram)) },
    };
    this.#strips = data.segments.map((segment, number) => new Strip(segment, number, this.#sound));
    this.#player = new Player(data.sound, (player) => this.#showPlace(player));
    this.#writeFacts();
    this.#writeText();
    at("strips").append(...this.#strips.map((strip) => strip.element));
    if (!this.#strips.length) at("where").parentElement.hidden = true;
    at("blocks").hidden = !data.segments.some(({ attention }) => attention?.blocks);
    this.#buildOverview();
    for (const strip of this.#strips) strip.measure();
    this.#lay();
    this.#showPlace(this.#player);
    this.#listen();
    this.#player.load().catch(() => {
      at("play").disabled = true;
      at("play").title = "This browser cannot play Ogg Vorbis.";
    });
    for (const strip of this.#strips) await strip.unpack(); // a print cannot wait for that
  }

  /** Stop all that goes on outside of the elements, before they are taken away. */
  close() {
    this.#closed.abort();
    this.#player?.close();
  }

  // Words

  #writeFacts() {
    const all = this.#data.segments.flatMap((segment) => segment.words);
    const count = this.#data.text.split(/\s+/).filter(Boolean).length;
    const facts = [`${this.#data.duration.toFixed(1)} s`, count === 1 ? "1 word" : `${count} words`];
    if (this.#data.segments.length > 1) facts.push(`${this.#data.segments.length} pieces`);
    if (all.length) facts.push(`mean confidence ${percent(all.reduce((sum, word) => sum + word.confidence, 0) / all.length)}`);
    at("facts").textContent = facts.join("  ·  ");
    if (!all.length) at("legend").hidden = document.querySelector(".hint").hidden = true;
    const made = Object.entries(this.#data.settings).map(([name, value]) => `${name} ${value}`);
    if (this.#data.model) made.unshift(`Model ${this.#data.model}`);
    at("made").textContent = made.join("  ·  ");
  }

  #writeText() {
    const text = at("text");
    this.#strips.forEach((strip, number) => {
      const { segment } = strip;
      const line = text.appendChild(make("div", "segment"));
      if (this.#strips.length > 1)
        line.append(make("a", "time", clockTime(segment.start), { href: `#segment-${number}`, "aria-label": `Show the piece at ${clockTime(segment.start)}` }));
      if (segment.words.length) segment.words.forEach((word, index) => line.append(this.#wordButton(word, strip, index), " "));
      else line.append(make("span", segment.text ? "" : "nothing", segment.text || "(no speech)"));
      for (const flag of segment.flags) line.append(make("p", `flag ${flag.name}`, flag.about));
    });
    if (!this.#strips.length) text.append(make("span", "nothing", "(no speech)"));
  }

  #wordButton(word, strip, index) {
    const label = `${word.text}, confidence ${percent(word.confidence)}, at ${clockTime(word.start, 1)}. Play`;
    const button = make("button", `word ${level(word.confidence)}`, word.text, { type: "button", "aria-label": label });
    button.style.setProperty("--confidence", word.confidence);
    const entry = { word, strip, index, button };
    const number = this.#words.push(entry) - 1;
    button.addEventListener("mouseenter", () => this.#mark(entry, button));
    button.addEventListener("mouseleave", () => this.#mark(null));
    button.addEventListener("focus", () => this.#mark(entry, button));
    button.addEventListener("blur", () => this.#mark(null));
    button.addEventListener("click", () => this.#player.play(word.start, word.end));
    button.addEventListener("keydown", (event) => {
      const next = this.#words[number + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
      if (!next) return;
      event.preventDefault();
      next.button.focus();
    });
    return button;
  }

  /** Mark a word wherever it is shown, and describe it beside an element. */
  #mark(entry, beside) {
    if (this.#marked === entry) return;
    this.#marked?.button.classList.remove("marked");
    this.#marked?.button.removeAttribute("aria-describedby");
    if (this.#marked?.strip !== entry?.strip) this.#marked?.strip.mark(-1);
    this.#marked = entry;
    this.#card.hidden = this.#overview.span.hidden = !entry;
    if (!entry) return;
    const { word, strip, index, button } = entry;
    button.classList.add("marked");
    button.setAttribute("aria-describedby", "card");
    strip.mark(index);
    this.#overview.span.style.left = `${(100 * word.start) / this.#data.duration}%`;
    this.#overview.span.style.width = `${(100 * (word.end - word.start)) / this.#data.duration}%`;
    this.#writeCard(entry);
    this.#placeCard(beside);
  }

  #writeCard({ word, strip, button }) {
    const title = make("div", "title", word.text);
    title.append(make("span", "", percent(word.confidence)));
    const meter = make("div", "meter");
    const filled = meter.appendChild(make("i"));
    filled.style.width = percent(word.confidence).replace(" ", "");
    filled.style.background = getComputedStyle(button).textDecorationColor;
    const length = Math.round(1000 * (word.end - word.start));
    this.#card.replaceChildren(title, meter, make("p", "", `${clockTime(word.start, 2)} – ${clockTime(word.end, 2)}, ${length} ms`));
    if (word.instead.length) this.#card.append(instead(word, unit(strip.segment)));
    else if (strip.segment.nbest.length > 1)
      this.#card.append(make("p", "", `All ${strip.segment.nbest.length} hypotheses have this word.`));
  }

  /** Put the card above an element; where there is no room, below, or beside a strip's word. */
  #placeCard(element) {
    const box = element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#card;
    const rightmost = document.documentElement.clientWidth - width - 8;
    let [x, y] = [Math.min(box.left, rightmost), box.top - height - 8];
    if (y < 8 && element.closest(".strip")) {
      y = Math.max(8, Math.min(box.top, innerHeight - height - 8)); // the span stays in sight
      const right = Math.max(box.right, element.firstElementChild.getBoundingClientRect().right) + 12;
      x = right <= rightmost ? right : box.left - width - 12;
    } else if (y < 8) y = box.bottom + 8;
    this.#card.style.left = `${Math.max(8, x)}px`;
    this.#card.style.top = `${y}px`;
  }

  // Time

  #buildOverview() {
    this.#overview.setAttribute("aria-valuemax", this.#data.duration.toFixed(1));
    for (const { segment } of this.#strips.slice(1)) {
      const seam = this.#overview.appendChild(make("i", "seam"));
      seam.style.left = `${(100 * segment.start) / this.#data.duration}%`;
    }
    this.#overview.span = this.#overview.appendChild(make("div", "span"));
    this.#overview.head = this.#overview.appendChild(make("div", "head"));
    this.#overview.span.hidden = true;
  }

  #showPlace({ place, playing }) {
    at("player").classList.toggle("playing", playing);
    at("play").setAttribute("aria-label", playing ? "Stop" : "Play all");
    at("clock").textContent = clockTime(place, 1);
    this.#overview.setAttribute("aria-valuenow", place.toFixed(1));
    this.#overview.setAttribute("aria-valuetext", `${place.toFixed(1)} seconds`);
    this.#overview.head.style.left = `${(100 * place) / this.#data.duration}%`;
    for (const strip of this.#strips) strip.play(playing || place > 0 ? place : -1);
    const now = playing ? this.#words.find(({ word }) => place >= word.start && place < word.end) : null;
    if (now === this.#playing) return;
    for (const [entry, is] of [[this.#playing, false], [now, true]])
      for (const element of entry ? [entry.button, entry.strip.labels[entry.index]] : [])
        element.classList.toggle("playing", is);
    this.#playing = now;
  }

  /** Widths and heights for this window and zoom: all strips have one scale. */
  #lay() {
    const longest = Math.max(0, ...this.#data.segments.map(({ start, end }) => end - start));
    const room = this.#strips[0]?.scroller.clientWidth ?? 0;
    const fitting = Math.max(FEWEST_PIXELS, room / Math.max(longest, 0.01));
    for (const strip of this.#strips) strip.lay(room, fitting * ZOOMS[this.#zoom], ZOOMS[this.#zoom]);
    at("zoom").children[0].disabled = this.#zoom === 0;
    at("zoom").children[1].disabled = this.#zoom === ZOOMS.length - 1;
    paintWaveform(this.#overview.firstElementChild, this.#sound.waveform, 0, this.#data.duration, this.#words.map(({ word }) => word));
  }

  // What the reader does

  #listen() {
    const { signal } = this.#closed;
    at("play").addEventListener("click", () => {
      if (this.#player.playing) this.#player.stop();
      else this.#player.play(this.#player.place >= this.#data.duration - 0.05 ? 0 : this.#player.place, this.#data.duration);
    });
    at("zoom").addEventListener("click", (event) => {
      const by = Number(event.target.dataset.by ?? 0);
      this.#zoom = Math.max(0, Math.min(ZOOMS.length - 1, this.#zoom + by));
      this.#lay();
    });
    this.#overview.addEventListener("click", (event) => {
      const box = this.#overview.getBoundingClientRect();
      this.#player.seek(((event.clientX - box.left) / box.width) * this.#data.duration, this.#data.duration);
    });
    this.#overview.addEventListener("keydown", (event) => {
      const { ArrowRight, ArrowLeft, Home, End } = { ArrowRight: this.#player.place + 1, ArrowLeft: this.#player.place - 1, Home: 0, End: this.#data.duration };
      const to = { ArrowRight, ArrowLeft, Home, End }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.#player.seek(Math.max(0, Math.min(this.#data.duration, to)), this.#data.duration);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.#mark(null);
      this.#player.stop();
    }, { signal });
    document.addEventListener("scroll", () => this.#mark(null), { passive: true, signal });
    for (const strip of this.#strips) this.#listenTo(strip);
    this.#watch();
  }

  #listenTo(strip) {
    const entries = this.#words.filter((entry) => entry.strip === strip);
    strip.plot.addEventListener("mousemove", (event) => {
      const index = strip.wordAt(event);
      this.#mark(entries[index] ?? null, strip.labels[index]);
    });
    strip.plot.addEventListener("mouseleave", () => this.#mark(null));
    strip.plot.addEventListener("click", (event) => {
      const word = strip.segment.words[strip.wordAt(event)];
      if (word) this.#player.play(word.start, word.end);
      else this.#player.seek(strip.time(event), this.#data.duration);
    });
  }

  /** Paint again when the window, the colours or the medium change. */
  #watch() {
    const { signal } = this.#closed;
    const seen = new IntersectionObserver(
      (changes) => {
        for (const { target, isIntersecting } of changes)
          this.#strips.find((strip) => strip.element === target).seen(isIntersecting);
      },
      { rootMargin: "400px" },
    );
    for (const strip of this.#strips) seen.observe(strip.element);
    signal.addEventListener("abort", () => seen.disconnect());
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) this.#lay();
      width = innerWidth;
    }, { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#lay(), { signal });
    addEventListener("beforeprint", () => {
      document.documentElement.style.colorScheme = "light";
      for (const strip of this.#strips) strip.paint();
    }, { signal });
    addEventListener("afterprint", () => {
      document.documentElement.style.colorScheme = "";
      this.#lay();
    }, { signal });
  }
}

function instead(word, unit) {
  const table = make("table");
  const caption = table.appendChild(make("caption", "", "Or was it …"));
  caption.append(make("small", "", `log P per ${unit}`));
  for (const other of word.instead.slice(0, MOST_ALTERNATIVES)) {
    const row = table.appendChild(make("tr"));
    const text = row.appendChild(make("td", "", other.text || "(no word)"));
    if (other.words > 1) text.append(make("small", "", `  for ${other.words} words`));
    row.append(make("td", "score", other.score.toFixed(3)));
  }
  const more = word.instead.length - MOST_ALTERNATIVES;
  if (more > 0) table.insertRow().append(make("td", "more", `… and ${more} more`));
  return table;
}
