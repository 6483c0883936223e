import { make, clockTime } from "../recording/strip.js";
import { View } from "../recording/view.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { Microphone, loudness } from "./microphone.js";
import { KeyError, checkKey, forgetKey, keepKey, key, transcribe } from "./requests.js";

const at = (id) => document.getElementById(id);
const { needsKey, maxUpload } = document.querySelector("main").dataset;
const history = new History();
let microphone = null, live = null, view = null, work = null, unsent = null;

at("record").addEventListener("click", () => {
  if (microphone) stop();
  else if (at("record").ariaDisabled !== "true") record(); // disabled, it would lose the focus
});
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // the same one may be chosen again
  if (file) send({ sound: file, name: file.name });
});
at("try").addEventListener("click", async () => {
  if (!(await allowed())) return;
  const response = await fetch(new URL("page/sample.opus", document.baseURI));
  await send({ sound: await response.blob(), name: "sample.opus" });
});
at("clear").addEventListener("click", async () => {
  if (!confirm("Delete all earlier recordings from this browser?")) return;
  await history.clear();
  await listHistory();
});
at("cancel").addEventListener("click", () => work?.abort());
at("again").addEventListener("click", () => send(unsent));
at("save").addEventListener("click", () => save(unsent.sound, unsent.name));
addEventListener("beforeunload", (event) => microphone && event.preventDefault());
acceptDrops();
acceptKey();
mark();
await listHistory();
document.documentElement.dataset.ready = "";

// Recording

async function record() {
  if (!(await allowed())) return;
  clean();
  const recorded = new Microphone(takeBlock);
  mark("busy", "Waiting for the microphone …");
  try {
    await recorded.start();
  } catch (error) {
    mark();
    return report(error);
  }
  microphone = recorded;
  live = new Live(showLive, endLive);
  at("live").hidden = false;
  mark("recording", "Recording. Words that are grey may still change.");
  try {
    live.start();
  } catch (error) {
    endLive(`There is no live text: ${error.message} The recording goes on.`);
  }
}

/** Show why there is no more live text; the recording goes on. */
function endLive(message) {
  mark("recording", message);
  at("live").hidden = !at("live").textContent;
}

function takeBlock(block) {
  live?.push(block);
  if (!microphone) return;
  at("record").style.setProperty("--level", loudness(block).toFixed(2));
  at("elapsed").textContent = clockTime(Math.floor(microphone.seconds));
  if (2 * microphone.length + 60_000 > Number(maxUpload)) stop("The recording was ended here: it is as large as the server takes.");
}

async function stop(why = "") {
  const recorded = microphone;
  microphone = null;
  mark("busy", why);
  await recorded.stop();
  live.stop();
  live = null;
  if (!recorded.length) {
    mark();
    return report(new Error("Nothing was recorded."));
  }
  const now = new Date();
  const title = `Recording of ${now.toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
  const local = new Date(now - 60_000 * now.getTimezoneOffset()).toISOString().slice(0, 19);
  await send({ sound: recorded.wav(), name: `recording-${local.replace(/\D/g, "-")}.wav`, title, about: why });
}

function showLive(final, provisional) {
  const said = final && provisional ? `${final} ` : final;
  if (at("final").textContent !== said) at("final").textContent = said;
  at("provisional").textContent = provisional;
}

// A recording, from here or from a file

/** Have a recording transcribed: its sound, the name of its file, its title, and a remark. */
async function send({ sound, name, title = name, about = "" }) {
  if (microphone || work || !(await allowed())) return;
  if (!at("live").textContent.trim()) clean();
  at("error").hidden = true;
  if (sound.size > Number(maxUpload)) return report(new Error(`${title} is larger than this server takes.`));
  work = new AbortController();
  mark("busy", `${about} Transcribing ${title === name ? name : "the recording"} …`.trim());
  const began = performance.now();
  const ticking = setInterval(() => (at("waited").textContent = clockTime(Math.floor((performance.now() - began) / 1000))), 1000);
  try {
    const result = await transcribe(sound, name, work.signal);
    result.stem = name.replace(/\.\w{1,5}$/, ""); // of files
    result.recording.name = title;
    await show(result);
    mark("", about);
    goToResult();
    await keep(result);
  } catch (error) {
    mark();
    if (error instanceof KeyError) forgetKey();
    report(error.name === "AbortError" ? new Error("Cancelled.") : error, { sound, name, title });
  } finally {
    clearInterval(ticking);
    work = null;
  }
}

async function show(result) {
  clean();
  at("result").replaceChildren(at("view").content.cloneNode(true));
  at("result").hidden = false;
  at("example").hidden = true;
  at("name").textContent = result.recording.name;
  offer(result);
  view = new View(result.recording);
  await view.show();
}

function goToResult() {
  at("result").focus({ preventScroll: true });
  at("result").scrollIntoView();
}

/** Take away what is shown. */
function clean() {
  view?.close();
  view = null;
  at("result").replaceChildren();
  at("result").hidden = at("live").hidden = at("error").hidden = true;
  showLive("", "");
}

function offer({ recording, files, stem }) {
  for (const [format, text] of Object.entries(files)) {
    const button = make("button", "", format, { type: "button", "aria-label": `Download ${format}` });
    button.addEventListener("click", () => save(new Blob([text]), `${stem}.${format}`));
    at("downloads").append(button);
  }
  at("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(recording.text);
    at("status").textContent = "The text is in the clipboard.";
  });
  at("copy").hidden = !navigator.clipboard;
}

function save(content, name) {
  const address = URL.createObjectURL(content);
  make("a", "", "", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// History

async function keep(result) {
  try {
    await history.add(result);
    await listHistory();
  } catch (error) {
    report(new Error(`This browser does not keep the recording: ${error?.message ?? error}`));
  }
}

async function listHistory() {
  const entries = await history.list().catch(() => []); // a browser may forbid it
  at("history").hidden = !entries.length;
  at("example").hidden ||= entries.length > 0;
  at("entries").replaceChildren(...entries.map(entryOf));
}

function entryOf({ id, name, duration, text }) {
  const item = make("li");
  const button = item.appendChild(make("button", "entry", "", { type: "button" }));
  button.append(make("b", "", name), make("small", "", clockTime(duration)), make("span", "", text || "(no speech)", { dir: "auto" }));
  button.addEventListener("click", async () => {
    if (microphone || work) return;
    await show(await history.get(id));
    mark();
    goToResult();
  });
  const remove = item.appendChild(make("button", "delete", "Delete", { type: "button", "aria-label": `Delete ${name}` }));
  remove.addEventListener("click", async () => {
    await history.remove(id);
    await listHistory();
    (at("entries").querySelector("button") ?? at("record")).focus();
  });
  return item;
}

// Files that are dropped, anywhere on the page

function acceptDrops() {
  let depth = 0; // of elements that the file is over
  const drag = (by) => {
    depth = Math.max(0, depth + by);
    document.body.classList.toggle("dragging", depth > 0);
  };
  addEventListener("dragenter", () => drag(1));
  addEventListener("dragleave", () => drag(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    drag(-depth);
    const [file] = event.dataTransfer.files;
    if (file) send({ sound: file, name: file.name });
  });
}

// The API key

let answer = null; // what waits for the dialog

/** Ask for a key where the server has one and none was given; false if nobody gives one. */
async function allowed() {
  if (needsKey !== "true" || key()) return true;
  at("key-dialog").showModal();
  return new Promise((resolve) => (answer = resolve));
}

function acceptKey() {
  const dialog = at("key-dialog");
  at("key-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", async () => {
    const given = dialog.returnValue === "given" ? at("key").value.trim() : "";
    dialog.returnValue = at("key").value = "";
    answer(Boolean(given) && (await takes(given)));
  });
}

async function takes(given) {
  keepKey(given);
  try {
    await checkKey();
    at("error").hidden = true;
    return true;
  } catch (error) {
    forgetKey();
    report(error);
    return false;
  }
}

// What goes on

/** Show a state: nothing, "busy" or "recording"; and a line about it. */
function mark(state = "", line = "") {
  document.body.className = state === "recording" ? "busy recording" : state;
  at("record").ariaDisabled = state === "busy";
  at("file").disabled = state !== "";
  at("record").querySelector(".name").textContent = state === "recording" ? "Stop recording" : "Record";
  at("invitation").textContent = state === "recording" ? "Press to stop" : "Record with the microphone";
  at("elapsed").hidden = state !== "recording";
  at("status").textContent = line;
  at("waited").textContent = "";
  at("cancel").hidden = !work;
  if (state === "recording") return;
  at("elapsed").textContent = clockTime(0);
  at("record").style.setProperty("--level", "0");
}

/** Show an error; a recording that was not transcribed can be sent again, or saved. */
function report(error, recording = null) {
  at("message").textContent = error.message;
  at("error").hidden = false;
  unsent = recording;
  at("again").hidden = !recording;
  at("save").hidden = !recording?.name.startsWith("recording-");
}
