const RATE = 16000;

/** Plays the recording, or a span of it, to the sample. Times are seconds. */
export class Player {
  #sound;
  #context;
  #buffer;
  #source = null;
  #started = 0; // on the clock of the context: when second 0 would have been played
  #end = 0;
  #turn = 0;
  place = 0;

  /**
   * @param {string} sound the recording as a file, in base64
   * @param {(player: Player) => void} changed called whenever the place changes
   */
  constructor(sound, changed) {
    this.#sound = sound;
    this.changed = changed;
  }

  get playing() {
    return this.#source !== null;
  }

  /** Play from one time to another; a browser wants this to begin with a click or key. */
  async play(start, end) {
    this.stop();
    this.#context ??= new AudioContext({ sampleRate: RATE });
    const turn = ++this.#turn;
    const [buffer] = await Promise.all([this.load(), this.#context.resume()]);
    if (turn !== this.#turn) return; // another was wished for meanwhile
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    source.onended = () => {
      if (this.#source === source) this.#finish(this.#end);
    };
    this.#end = Math.min(end, buffer.duration);
    this.#started = this.#context.currentTime - start;
    source.start(0, start, Math.max(0.01, end - start));
    this.#source = source;
    this.place = start;
    this.#tick();
  }

  stop() {
    this.#turn++;
    if (this.playing) this.#finish(this.place);
  }

  /** Go somewhere else, and go on from there if it plays. */
  seek(time, end) {
    if (this.playing) return this.play(time, end);
    this.place = time;
    this.changed(this);
  }

  /** Decode the recording, once; a browser allows that before it allows to play. */
  load() {
    const bytes = () => fromBase64(this.#sound).buffer;
    this.#buffer ??= new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes());
    return this.#buffer;
  }

  /** Stop, for good. */
  close() {
    this.stop();
    this.#context?.close();
  }

  #finish(place) {
    const source = this.#source;
    this.#source = null;
    source.stop();
    this.place = place;
    this.changed(this);
  }

  #tick() {
    if (!this.playing) return;
    this.place = Math.min(this.#context.currentTime - this.#started, this.#end);
    this.changed(this);
    requestAnimationFrame(() => this.#tick());
  }
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Unpack a matrix of bytes: {rows, columns, data} with its data as Uint8Array. */
export async function unpacked(matrix) {
  const packed = new Blob([fromBase64(matrix.data)]).stream();
  const bytes = new Response(packed.pipeThrough(new DecompressionStream("deflate")));
  return { ...matrix, data: new Uint8Array(await bytes.arrayBuffer()) };
}
