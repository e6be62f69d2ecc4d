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

  // count images; `selected` and `found` hold a 1 for each image that is selected, or that the search found.
  X.state = {
    about: null, images: null, count: 0, columns: new Map(), label: null,
    selected: new Uint8Array(0), selectedCount: 0, found: null, open: null, hovered: -1, neighbours: [[], []],
  };

  X.encoderOf = (slot) => (slot === 0 ? X.state.about.first : X.state.about.second);
  X.slots = () => (X.state.about.second === null || X.state.about.second === undefined ? [0] : [0, 1]);
  X.nameOf = (image) => X.state.images.names[image] ?? "your image";
  X.labelOf = (image) => {
    const label = X.state.label;
    return label ? label.column.values[label.values[image]] ?? "" : "";
  };

  X.date = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " "); // UTC

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
    const inputs = new Map();
    for (const [value, title] of options) {
      const input = X.el("input", { type: "radio", name, value, change: () => onchange(value) });
      input.checked = value === chosen;
      inputs.set(value, input);
      place.append(X.el("label", { class: "choice" }, input, X.el("span", {}, title)));
    }
    return {
      choose(value) {
        const input = inputs.get(value);
        if (!input || input.disabled) return;
        input.checked = true;
        onchange(value);
      },
      allow(value, allowed) { inputs.get(value).disabled = !allowed; },
    };
  };
})(window.Explorer);
