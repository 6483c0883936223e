const ZOOMS = [1, 1.5, 2, 3, 4];
const FEWEST_PIXELS = 62; // of a second
const MOST_ALTERNATIVES = 6; // shown of a word

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const [overview, card] = [at("overview"), at("card")];
const sound = {
  waveform: {
    ...data.waveform,
    least: await unpacked(data.waveform.least),
    greatest: await unpacked(data.waveform.greatest),
  },
  spectrogram: { ...data.spectrogram, ...(await unpacked(data.spectrogram)) },
};
const strips = data.segments.map((segment, number) => new Strip(segment, number, sound));
const words = []; // {word, strip, index, button}, in the order of time
const player = new Player(data.sound, showPlace);
let zoom = 0, marked = null, playing = null;

writeFacts();
writeText();
at("strips").append(...strips.map((strip) => strip.element));
if (!strips.length) at("where").parentElement.hidden = true;
buildOverview();
for (const strip of strips) strip.measure();
lay();
showPlace(player);
listen();
document.documentElement.dataset.ready = "";
player.load().catch(() => {
  at("play").disabled = true;
  at("play").title = "This browser cannot play Ogg Vorbis.";
});
for (const strip of strips) await strip.unpack(); // a print cannot wait for that

// Words

function writeFacts() {
  const all = data.segments.flatMap((segment) => segment.words);
  const count = data.text.split(/\s+/).filter(Boolean).length;
  const facts = [`${data.duration.toFixed(1)} s`, count === 1 ? "1 word" : `${count} words`];
  if (data.segments.length > 1) facts.push(`${data.segments.length} pieces`);
  if (all.length) facts.push(`mean confidence ${percent(all.reduce((sum, word) => sum + word.confidence, 0) / all.length)}`);
  at("facts").textContent = facts.join("  ·  ");
  if (!all.length) at("legend").hidden = document.querySelector(".hint").hidden = true;
  const made = Object.entries(data.settings).map(([name, value]) => `${name} ${value}`);
  if (data.model) made.unshift(`Model ${data.model}`);
  at("made").textContent = made.join("  ·  ");
}

function writeText() {
  const text = at("text");
  strips.forEach((strip, number) => {
    const { segment } = strip;
    const line = text.appendChild(make("div", "segment"));
    if (strips.length > 1)
      line.append(make("a", "time", clockTime(segment.start), { href: `#segment-${number}`, "aria-label": `Show the piece at ${clockTime(segment.start)}` }));
    if (segment.words.length) segment.words.forEach((word, index) => line.append(wordButton(word, strip, index), " "));
    else line.append(make("span", segment.text ? "" : "nothing", segment.text || "(no speech)"));
    for (const flag of segment.flags) line.append(make("p", `flag ${flag.name}`, flag.about));
  });
  if (!strips.length) text.append(make("span", "nothing", "(no speech)"));
}

function wordButton(word, strip, index) {
  const label = `${word.text}, confidence ${percent(word.confidence)}, at ${clockTime(word.start, 1)}. Play`;
  const button = make("button", `word ${level(word.confidence)}`, word.text, { type: "button", "aria-label": label });
  button.style.setProperty("--confidence", word.confidence);
  const entry = { word, strip, index, button };
  const number = words.push(entry) - 1;
  button.addEventListener("mouseenter", () => mark(entry, button));
  button.addEventListener("mouseleave", () => mark(null));
  button.addEventListener("focus", () => mark(entry, button));
  button.addEventListener("blur", () => mark(null));
  button.addEventListener("click", () => player.play(word.start, word.end));
  button.addEventListener("keydown", (event) => {
    const next = words[number + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (!next) return;
    event.preventDefault();
    next.button.focus();
  });
  return button;
}

/** Mark a word wherever it is shown, and describe it beside an element. */
function mark(entry, beside) {
  if (marked === entry) return;
  marked?.button.classList.remove("marked");
  marked?.button.removeAttribute("aria-describedby");
  if (marked?.strip !== entry?.strip) marked?.strip.mark(-1);
  marked = entry;
  card.hidden = overview.span.hidden = !entry;
  if (!entry) return;
  const { word, strip, index, button } = entry;
  button.classList.add("marked");
  button.setAttribute("aria-describedby", "card");
  strip.mark(index);
  overview.span.style.left = `${(100 * word.start) / data.duration}%`;
  overview.span.style.width = `${(100 * (word.end - word.start)) / data.duration}%`;
  writeCard(entry);
  placeCard(beside);
}

function writeCard({ word, strip, button }) {
  const title = make("div", "title", word.text);
  title.append(make("span", "", percent(word.confidence)));
  const meter = make("div", "meter");
  const filled = meter.appendChild(make("i"));
  filled.style.width = percent(word.confidence).replace(" ", "");
  filled.style.background = getComputedStyle(button).textDecorationColor;
  const length = Math.round(1000 * (word.end - word.start));
  card.replaceChildren(title, meter, make("p", "", `${clockTime(word.start, 2)} – ${clockTime(word.end, 2)}, ${length} ms`));
  if (word.instead.length) card.append(instead(word, unit(strip.segment)));
  else if (strip.segment.nbest.length > 1)
    card.append(make("p", "", `All ${strip.segment.nbest.length} hypotheses have this word.`));
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

/** Put the card above an element; where there is no room, below, or beside a strip's word. */
function placeCard(element) {
  const box = element.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = card;
  const rightmost = document.documentElement.clientWidth - width - 8;
  let [x, y] = [Math.min(box.left, rightmost), box.top - height - 8];
  if (y < 8 && element.closest(".strip")) {
    y = Math.max(8, Math.min(box.top, innerHeight - height - 8)); // the span stays in sight
    const right = Math.max(box.right, element.firstElementChild.getBoundingClientRect().right) + 12;
    x = right <= rightmost ? right : box.left - width - 12;
  } else if (y < 8) y = box.bottom + 8;
  card.style.left = `${Math.max(8, x)}px`;
  card.style.top = `${y}px`;
}

// Time

function buildOverview() {
  overview.setAttribute("aria-valuemax", data.duration.toFixed(1));
  for (const { segment } of strips.slice(1)) {
    const seam = overview.appendChild(make("i", "seam"));
    seam.style.left = `${(100 * segment.start) / data.duration}%`;
  }
  overview.span = overview.appendChild(make("div", "span"));
  overview.head = overview.appendChild(make("div", "head"));
  overview.span.hidden = true;
}

function showPlace({ place, playing }) {
  at("player").classList.toggle("playing", playing);
  at("play").setAttribute("aria-label", playing ? "Stop" : "Play all");
  at("clock").textContent = clockTime(place, 1);
  overview.setAttribute("aria-valuenow", place.toFixed(1));
  overview.setAttribute("aria-valuetext", `${place.toFixed(1)} seconds`);
  overview.head.style.left = `${(100 * place) / data.duration}%`;
  for (const strip of strips) strip.play(playing || place > 0 ? place : -1);
  const now = playing ? words.find(({ word }) => place >= word.start && place < word.end) : null;
  if (now === playing) return;
  for (const [entry, is] of [[playing, false], [now, true]])
    for (const element of entry ? [entry.button, entry.strip.labels[entry.index]] : [])
      element.classList.toggle("playing", is);
  playing = now;
}

/** Widths and heights for this window and zoom: all strips have one scale. */
function lay() {
  const longest = Math.max(0, ...data.segments.map(({ start, end }) => end - start));
  const room = strips[0]?.scroller.clientWidth ?? 0;
  const fitting = Math.max(FEWEST_PIXELS, room / Math.max(longest, 0.01));
  for (const strip of strips) strip.lay(room, fitting * ZOOMS[zoom], ZOOMS[zoom]);
  at("zoom").children[0].disabled = zoom === 0;
  at("zoom").children[1].disabled = zoom === ZOOMS.length - 1;
  paintWaveform(overview.firstElementChild, sound.waveform, 0, data.duration, words.map(({ word }) => word));
}

// What the reader does

function listen() {
  at("play").addEventListener("click", () => {
    if (player.playing) player.stop();
    else player.play(player.place >= data.duration - 0.05 ? 0 : player.place, data.duration);
  });
  at("zoom").addEventListener("click", (event) => {
    const by = Number(event.target.dataset.by ?? 0);
    zoom = Math.max(0, Math.min(ZOOMS.length - 1, zoom + by));
    lay();
  });
  overview.addEventListener("click", (event) => {
    const box = overview.getBoundingClientRect();
    player.seek(((event.clientX - box.left) / box.width) * data.duration, data.duration);
  });
  overview.addEventListener("keydown", (event) => {
    const { ArrowRight, ArrowLeft, Home, End } = { ArrowRight: player.place + 1, ArrowLeft: player.place - 1, Home: 0, End: data.duration };
    const to = { ArrowRight, ArrowLeft, Home, End }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    player.seek(Math.max(0, Math.min(data.duration, to)), data.duration);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    mark(null);
    player.stop();
  });
  document.addEventListener("scroll", () => mark(null), { passive: true });
  for (const strip of strips) listenTo(strip);
  watch();
}

function listenTo(strip) {
  const entries = words.filter((entry) => entry.strip === strip);
  strip.plot.addEventListener("mousemove", (event) => {
    const index = strip.wordAt(event);
    mark(entries[index] ?? null, strip.labels[index]);
  });
  strip.plot.addEventListener("mouseleave", () => mark(null));
  strip.plot.addEventListener("click", (event) => {
    const word = strip.segment.words[strip.wordAt(event)];
    if (word) player.play(word.start, word.end);
    else player.seek(strip.time(event), data.duration);
  });
}

/** Paint again when the window, the colours or the medium change. */
function watch() {
  const seen = new IntersectionObserver(
    (changes) => {
      for (const { target, isIntersecting } of changes)
        strips.find((strip) => strip.element === target).seen(isIntersecting);
    },
    { rootMargin: "400px" },
  );
  for (const strip of strips) seen.observe(strip.element);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) lay();
    width = innerWidth;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", lay);
  addEventListener("beforeprint", () => {
    document.documentElement.style.colorScheme = "light";
    for (const strip of strips) strip.paint();
  });
  addEventListener("afterprint", () => {
    document.documentElement.style.colorScheme = "";
    lay();
  });
}
