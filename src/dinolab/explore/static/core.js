"use strict";
// What all scripts of the page share: the one global object, a few helpers, events, and what is chosen now.
window.Explorer = {};

((X) => {
  X.$ = (id) => document.getElementById(id);
  X.clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  X.calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // An element with its attributes and children. Functions become listeners; text stays text, whatever it holds.
  X.el = (tag, traits = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(traits)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  const bus = new EventTarget();
  X.on = (name, listener) => bus.addEventListener(name, (event) => listener(event.detail));
  X.emit = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

  let quietSoon = 0;
  // A message that screen readers speak; `seen: false` where the page shows the same anyway. Errors stay until the next one.
  X.say = (words, { error = false, seen = true } = {}) => {
    const place = X.$("message");
    place.textContent = words;
    place.className = error ? "error" : seen ? "" : "hidden";
    clearTimeout(quietSoon);
    if (!error) quietSoon = setTimeout(() => { place.textContent = ""; }, 6000);
  };
  X.fail = (error) => X.say(error?.message ?? String(error), { error: true });

  // What the browser keeps of this page for the next visit, as JSON. A page opened from disk is known by its place there.
  const keptAs = (name) => `dinolab ${name} ${X.data.exported ? location.pathname : X.state.about.title}`;
  const unkept = new Set(); // what is lost with the page
  X.kept = (name, otherwise) => {
    try {
      return JSON.parse(localStorage.getItem(keptAs(name))) ?? otherwise;
    } catch {
      return otherwise; // the browser keeps nothing, or not this
    }
  };
  X.keep = (name, value) => {
    try {
      localStorage.setItem(keptAs(name), JSON.stringify(value));
      unkept.delete(name);
    } catch {
      unkept.add(name);
    }
  };
  X.saved = (name) => unkept.delete(name);
  window.addEventListener("beforeunload", (event) => { if (unkept.size) event.preventDefault(); });

  // count images; `selected` and `found` hold a 1 for each image that is selected, or that the search found.
  X.state = {
    about: null, images: null, count: 0, columns: new Map(), label: null,
    selected: new Uint8Array(0), selectedCount: 0, found: null, open: null, hovered: -1, neighbours: [[], []],
    frames: new Map(), // image -> {clip, words} of a frame of a video
  };

  X.encoderOf = (slot) => (slot === 0 ? X.state.about.first : X.state.about.second);
  X.slots = () => (X.state.about.second === null || X.state.about.second === undefined ? [0] : [0, 1]);
  X.nameOf = (image) => X.state.images.names[image] ?? "your image";
  X.labelOf = (image) => {
    const label = X.state.label;
    return label ? label.column.values[label.values[image]] ?? "" : "";
  };

  // In the time of the place where the browser is.
  X.date = (seconds) => {
    const minutes = new Date(seconds * 1000).getTimezoneOffset();
    return new Date((seconds - 60 * minutes) * 1000).toISOString().slice(0, 16).replace("T", " ");
  };

  // Which frame of its video an image is, counted from 1: its name, as files have it, ends in "/183of280" or "/0of1 3of8".
  X.frameOf = (name) => {
    const [, clip, segment, segments, frame, frames] = /^(.*)\/(?:(\d+)of(\d+) )?(\d+)of(\d+)$/s.exec(name) ?? [];
    if (clip === undefined) return null;
    return { clip, words: `${segments > 1 ? `segment ${Number(segment) + 1} of ${segments}, ` : ""}frame ${Number(frame) + 1} of ${frames}` };
  };

  X.hover = (image) => {
    if (image === X.state.hovered) return;
    X.state.hovered = image;
    X.emit("hover", image);
  };

  X.open = (image, traits = {}) => {
    X.state.open = image;
    X.emit("open", { image, ...traits });
    const fragment = `#image=${image}`;
    if (typeof image === "number" && location.hash !== fragment) history.replaceState(null, "", fragment);
  };

  // Radio buttons that look like a row of buttons. Returns a function that chooses one.
  X.choices = (place, name, options, chosen, onchange) => {
    const inputs = new Map(), refused = new Map(); // the latter: why a value cannot be chosen
    for (const [value, title] of options) {
      const input = X.el("input", { type: "radio", name, value, change: () => onchange(value) });
      input.checked = value === chosen;
      inputs.set(value, input);
      place.append(X.el("label", { class: "choice" }, input, X.el("span", {}, title)));
    }
    return {
      choose(value) {
        if (refused.has(value)) return X.say(refused.get(value), { error: true });
        inputs.get(value).checked = true;
        return onchange(value);
      },
      refuse(value, why) {
        const input = inputs.get(value);
        input.disabled = true;
        input.parentElement.title = why;
        refused.set(value, why);
      },
    };
  };
})(window.Explorer);
