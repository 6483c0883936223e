const MOST = 50; // recordings; the oldest go

/** Earlier recordings, in the IndexedDB of this browser. */
export class History {
  #database = new Promise((resolve, reject) => {
    const opening = indexedDB.open("asr", 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("entries", { keyPath: "id" }); // to be listed
      opening.result.createObjectStore("results", { keyPath: "id" }); // with the sound
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });

  /** Keep a result; returns its id. */
  async add(result) {
    const id = Date.now();
    const { name, duration, text } = result.recording;
    await this.#do("readwrite", (entries, results) => {
      entries.put({ id, name, duration, text: text.slice(0, 300) });
      results.put({ ...result, id });
    });
    for (const old of (await this.list()).slice(MOST)) await this.remove(old.id);
    return id;
  }

  /** The entries, newest first. */
  async list() {
    return (await this.#do("readonly", (entries) => entries.getAll())).reverse();
  }

  get(id) {
    return this.#do("readonly", (_, results) => results.get(id));
  }

  remove(id) {
    return this.#do("readwrite", (...stores) => stores.map((store) => store.delete(id))[0]);
  }

  clear() {
    return this.#do("readwrite", (...stores) => stores.map((store) => store.clear())[0]);
  }

  async #do(mode, work) {
    const names = ["entries", "results"];
    const transaction = (await this.#database).transaction(names, mode);
    const request = work(...names.map((name) => transaction.objectStore(name)));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }
}
