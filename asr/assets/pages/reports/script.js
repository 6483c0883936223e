"use strict";
// One voice at a time: who starts to play stops the others.
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio")) {
    if (player !== event.target) player.pause();
  }
}, true);

// A recording that is linked and not there says so.
document.addEventListener("error", (event) => {
  if (event.target.tagName !== "AUDIO") return;
  const note = document.createElement("p");
  note.className = "no-audio";
  note.textContent = "The recording's file was not found.";
  event.target.replaceWith(note);
}, true);

// Tables are shown on paper, where nobody can open them.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.opened = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-opened]")) {
    details.open = false;
    delete details.dataset.opened;
  }
});

// The contents show where the reader is.
const links = new Map(
  [...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]),
);
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    for (const [id, link] of links) link.toggleAttribute("data-here", id === target.id);
  }
}, { rootMargin: "-20% 0px -75% 0px" });
for (const section of document.querySelectorAll("main > section")) seen.observe(section);
