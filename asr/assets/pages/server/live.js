import { key } from "./requests.js";

/** Live text of a microphone, over the server's realtime API (OpenAI's protocol). */
export class Live {
  #socket;
  #waiting = [];
  #items = new Map(); // id -> {final, provisional}, in order

  /**
   * @param {(final: string, provisional: string) => void} changed called with all text so far
   * @param {(message: string) => void} failed called when there will be no more
   */
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
  }

  start() {
    const address = new URL("v1/realtime?intent=transcription", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = key() ? ["realtime", `asr-api-key-base64url.${base64url(key())}`] : ["realtime"];
    this.#socket = new WebSocket(address, protocols);
    this.#socket.onopen = () => {
      this.#send({
        type: "session.update",
        session: { type: "transcription", audio: { input: { format: { type: "audio/pcm", rate: 24000 } } } },
      });
      for (const event of this.#waiting.splice(0)) this.#send(event);
    };
    this.#socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.#socket.onclose = () => this.#socket && this.failed("There is no live text: the connection has ended. The recording goes on.");
  }

  /** @param {Int16Array} block at 24 kHz */
  push(block) {
    const bytes = new Uint8Array(block.buffer);
    let text = "";
    for (let n = 0; n < bytes.length; n += 4096) text += String.fromCharCode(...bytes.subarray(n, n + 4096));
    this.#send({ type: "input_audio_buffer.append", audio: btoa(text) });
  }

  stop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #send(event) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
    else if (this.#socket?.readyState === WebSocket.CONNECTING) this.#waiting.push(event);
  }

  #take(event) {
    if (!this.#socket) return; // it was stopped
    const kind = event.type.replace("conversation.item.input_audio_transcription.", "");
    const item = this.#items.get(event.item_id) ?? { final: "", provisional: "" };
    if (kind === "asr.provisional") item.provisional = event.text;
    else if (kind === "delta") Object.assign(item, { final: item.final + event.delta, provisional: "" });
    else if (kind === "completed") Object.assign(item, { final: event.transcript, provisional: "" });
    else if (event.error) return this.failed(`Some words are missing here: ${event.error.message}`);
    else return;
    this.#items.set(event.item_id, item);
    const all = (name) => [...this.#items.values()].map((one) => one[name].trim()).filter(Boolean).join(" ");
    this.changed(all("final"), all("provisional"));
  }
}

/** A subprotocol is a token: = / and , may be in a key, but not in that. */
function base64url(text) {
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
