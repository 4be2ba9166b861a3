"use strict";
// The page holds every row as finished HTML; this script only shows one at a time, fills in its
// pictures and sound from the two tables, and never builds markup from data.
(() => {
  const table = (id) => JSON.parse(document.getElementById(id).textContent);
  const pictures = table("pictures");
  const sounds = table("sounds");
  const rows = [...document.querySelectorAll("article")];
  const filters = ["template", "type", "video", "correct"].map((name) => document.getElementById("by-" + name));
  const status = document.getElementById("status");
  let shown = [];
  let place = 0;
  let timer = null;
  let frame = 0;

  const matches = (row) =>
    filters.every((filter) => {
      const name = filter.id.slice(3);
      if (!filter.value) return true;
      if (name === "correct") return row.dataset.correct.split(" ").includes(filter.value);
      return row.dataset[name] === filter.value;
    });

  const fill = (row) => {
    for (const image of row.querySelectorAll("img[data-frame]")) image.src = pictures[image.dataset.frame];
    for (const audio of row.querySelectorAll("audio[data-sound]")) {
      if (!audio.src) audio.src = sounds[audio.dataset.sound];
    }
  };

  const paint = (row, index) => {
    const stills = [...row.querySelectorAll(".strip img")];
    if (!stills.length) return;
    frame = (index + stills.length) % stills.length;
    row.querySelector(".flip img").src = stills[frame].src;
    stills.forEach((still, number) => still.parentElement.classList.toggle("now", number === frame));
    row.querySelector(".count").textContent = "frame " + (frame + 1) + " of " + stills.length;
  };

  const stop = () => {
    clearInterval(timer);
    timer = null;
    for (const button of document.querySelectorAll("button.play")) button.textContent = "Play";
  };

  const play = (row) => {
    if (timer !== null) return stop();
    const button = row.querySelector("button.play");
    if (!button || button.disabled) return;
    button.textContent = "Stop";
    timer = setInterval(() => paint(row, frame + 1), Number(row.dataset.interval));
  };

  const show = (index) => {
    stop();
    for (const audio of document.querySelectorAll("audio")) audio.pause();
    rows.forEach((row) => { row.hidden = true; });
    if (!shown.length) {
      status.textContent = "No row matches the filters";
      return;
    }
    place = (index + shown.length) % shown.length;
    const row = shown[place];
    fill(row);
    row.hidden = false;
    paint(row, 0);
    status.textContent = "Row " + (place + 1) + " of " + shown.length;
    history.replaceState(null, "", "#" + row.id);
  };

  const refilter = () => {
    shown = rows.filter(matches);
    show(0);
  };

  filters.forEach((filter) => filter.addEventListener("change", refilter));
  document.getElementById("back").addEventListener("click", () => show(place - 1));
  document.getElementById("next").addEventListener("click", () => show(place + 1));
  rows.forEach((row) => {
    const button = row.querySelector("button.play");
    if (button) button.addEventListener("click", () => play(row));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // A list and the sound player have keys of their own.
    if (["SELECT", "AUDIO"].includes(event.target.tagName)) return;
    const row = shown[place];
    const actions = {
      j: () => show(place + 1),
      k: () => show(place - 1),
      Home: () => show(0),
      End: () => show(-1),
      ".": () => row && paint(row, frame + 1),
      ",": () => row && paint(row, frame - 1),
      p: () => row && play(row),
      s: () => { const audio = row && row.querySelector("audio"); if (audio) { audio.currentTime = 0; audio.play(); } },
    };
    actions.ArrowRight = actions.j;
    actions.ArrowLeft = actions.k;
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });

  shown = rows;
  const asked = rows.findIndex((row) => "#" + row.id === location.hash);
  show(asked < 0 ? 0 : asked);
})();
