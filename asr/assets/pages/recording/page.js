import { View } from "./view.js";

const view = new View(JSON.parse(document.getElementById("data").textContent));
await view.show();
document.documentElement.dataset.ready = "";
