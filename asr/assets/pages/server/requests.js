const KEY = "asr-key"; // in the storage of this tab

/** The API key, if one was given. */
export const key = () => sessionStorage.getItem(KEY);
export const keepKey = (given) => sessionStorage.setItem(KEY, given);
export const forgetKey = () => sessionStorage.removeItem(KEY);

/** The server did not take the key, or misses it. */
export class KeyError extends Error {}

/** Ask this server; what it reports becomes an Error with its one line. */
async function ask(path, options = {}) {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response;
  const message = await response.json().then(({ error }) => error.message, () => `The server answered ${response.status}.`);
  throw response.status === 401 ? new KeyError(message) : new Error(message);
}

/** Refuse a key that the server does not take. */
export const checkKey = () => ask("v1/models");

/** Transcribe a recording: {recording, files}, what the view shows and a text of each format. */
export async function transcribe(sound, name, signal) {
  const form = new FormData();
  form.append("file", sound, name);
  const response = await ask("page/recording", { method: "POST", body: form, signal });
  return response.json();
}
