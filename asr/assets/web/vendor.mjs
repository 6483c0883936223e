// Run by `npm install`: puts the three files of onnxruntime-web that the page needs
// beside it, in ort/. After that node_modules may be deleted.
import { copyFileSync, mkdirSync } from "node:fs";

const from = new URL("node_modules/onnxruntime-web/dist/", import.meta.url);
const to = new URL("ort/", import.meta.url);
mkdirSync(to, { recursive: true });
for (const name of [
  "ort.wasm.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
]) {
  copyFileSync(new URL(name, from), new URL(name, to));
}
