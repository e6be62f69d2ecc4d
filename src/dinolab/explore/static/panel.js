"use strict";
// The open image by one encoder: picture, facts, frames of its video, checkpoints, neighbours and prototypes.
((X) => {
  const END = "end of the run";
  const runOf = ({ name, step }) => (step === null ? name : name.slice(0, name.lastIndexOf("@")));

  // The kept checkpoints of an encoder's run in rising order, and the encoder itself at the end.
  function checkpoints(encoder) {
    const encoders = X.state.about.encoders.map((one, number) => ({ ...one, number })), run = runOf(encoders[encoder]);
    let first = encoder;
    while (first > 0 && encoders[first - 1].step !== null && runOf(encoders[first - 1]) === run) first--;
    return encoders.slice(first, encoder + 1);
  }

  X.Panel = class {
    constructor(slot) {
      this.slot = slot;
      this.encoder = X.encoderOf(slot);
      this.readout = X.el("p", { class: "readout quiet" });
      this.painting = new X.Painting(slot, (words) => { this.readout.textContent = words; });
      this.title = X.el("h2", {}, "No image is open");
      this.facts = X.el("p", { class: "quiet facts" }, "Choose one on the map, in the search or in a list.");
      this.rest = X.el("div", {});
      this.frames = this.#frames();
      this.element = X.el("article", { class: "panel empty", "aria-label": X.state.about.encoders[this.encoder].name },
        X.slots().length > 1 ? X.el("p", { class: "encoder" }, X.state.about.encoders[this.encoder].name) : null,
        this.title, this.facts, this.painting.main.element, this.readout, this.frames.element, this.#steps(), this.rest);
      X.on("open", ({ image }) => this.show(image).catch(X.fail));
      X.on("look", () => this.painting.paint().catch?.(X.fail));
      X.on("patch", (shared) => { if (shared.slot !== slot) this.painting.follow(shared); });
    }

    // A slider through the frames of a video.
    #frames() {
      let later = 0;
      const range = X.el("input", {
        type: "range", min: "0", step: "1", "aria-label": "Frame of the video",
        input: () => {
          clearTimeout(later);
          later = setTimeout(() => X.open(this.members[range.value], { from: "frames" }), 60);
        },
      });
      const step = (by) => () => X.open(this.members[X.clamp(Number(range.value) + by, 0, this.members.length - 1)], { from: "frames" });
      const words = X.el("span", { class: "quiet" });
      this.step = (by) => { if (this.members) step(by)(); };
      const element = X.el("div", { class: "slider", hidden: true }, X.el("button", { type: "button", click: step(-1) }, "Previous"), range,
        X.el("button", { type: "button", click: step(1) }, "Next"), words);
      return { element, range, words };
    }

    #showFrames(image) {
      const { group } = X.state.images, number = group[image] ?? -1, { element, range, words } = this.frames;
      this.members = null;
      element.hidden = number < 0;
      if (number < 0) return;
      this.members = [];
      group.forEach((other, i) => { if (other === number) this.members.push(i); });
      range.max = this.members.length - 1;
      range.value = this.members.indexOf(image);
      words.textContent = X.state.frames.get(image)?.words ?? "";
    }

    // A slider over the kept checkpoints of the encoder's run.
    #steps() {
      const steps = checkpoints(this.encoder), words = X.el("span", { class: "quiet" });
      const range = X.el("input", {
        type: "range", min: "0", max: String(steps.length - 1), step: "1", "aria-label": "Checkpoint of the run",
        input: () => this.choose(steps[range.value].number),
      });
      // Look at the image with one of these encoders.
      this.choose = (number) => {
        const place = steps.findIndex((one) => one.number === number);
        if (place < 0) return;
        words.textContent = steps[place].step === null ? END : `step ${steps[place].step}; neighbours and predictions are those at the ${END}`;
        range.value = String(place);
        range.setAttribute("aria-valuetext", words.textContent);
        this.seen = number;
        clearTimeout(this.later);
        this.later = setTimeout(() => this.see().catch(X.fail), 60);
      };
      this.choose(this.encoder);
      this.nearest = steps.length < 2 ? "Nearest neighbours" : `Nearest neighbours at the ${END}`;
      return steps.length < 2 ? null : X.el("div", { class: "slider" }, X.el("span", {}, "Checkpoint"), range, words);
    }

    async show(image) {
      const wish = (this.wish = {}), detail = await X.data.get(`api/detail/${this.encoder}/${image}`);
      if (wish !== this.wish) return;
      this.image = image;
      this.element.classList.remove("empty");
      this.#facts(detail);
      this.#showFrames(image);
      this.#list(detail);
      X.state.neighbours[this.slot] = detail.neighbours.slice(0, 8);
      X.emit("neighbours");
      await this.see();
    }

    async see() {
      if (this.image === undefined) return;
      await this.painting.load(this.seen, this.image);
    }

    #facts({ location, label, prediction, layers, width, height, date }) {
      const name = X.nameOf(this.image);
      this.title.textContent = name;
      this.painting.main.element.setAttribute("aria-label", `Picture of ${name}. Arrow keys move over its patches, Enter pins one.`);
      const known = (value) => value !== null && value !== undefined && value !== "";
      const guess = (predicted, by) => (known(predicted)
        ? X.el("span", { class: label ? (label === predicted ? "right" : "wrong") : "" }, `predicted ${predicted} by ${by}`) : null);
      const guesses = [guess(prediction, "neighbours"), ...Object.entries(layers ?? {}).map(([by, predicted]) => guess(predicted, by))];
      const parts = [known(label) ? `label ${label}` : null, ...guesses, known(width) ? `${width} × ${height} pixels` : null, known(date) ? X.date(date) : null];
      this.facts.replaceChildren(...parts.filter(known).flatMap((part, i) => (i ? [" · ", part] : [part])),
        X.el("br"), X.el("span", { class: "location" }, location ?? ""));
    }

    #list({ neighbours, prototypes }) {
      const overlays = this.painting.begin(neighbours), figure = ({ similarity }) => `${similarity.toFixed(3)}`;
      const line = (neighbour) => [X.labelOf(neighbour.image), figure(neighbour)].filter(Boolean).join(" · ");
      const near = overlays.map((overlay, i) => {
        const tile = X.tile(neighbours[i].image, line(neighbours[i]));
        tile.querySelector("img").replaceWith(X.el("div", { class: "square" }, overlay.element));
        return tile;
      });
      const more = neighbours.slice(overlays.length).map((neighbour) => X.tile(neighbour.image, line(neighbour)));
      const parts = [X.el("h3", {}, this.nearest), X.el("div", { class: "tiles four" }, ...near)];
      if (more.length) parts.push(X.el("details", {}, X.el("summary", {}, `${more.length} more`), X.el("div", { class: "tiles four" }, ...more)));
      this.prototypes = X.el("details", { hidden: true });
      this.rest.replaceChildren(...parts, this.prototypes);
      this.#showPrototypes(prototypes);
    }

    // They come later than the rest where the server computes them for all images first (null until then).
    async #showPrototypes(prototypes) {
      const place = this.prototypes, { image } = this;
      while (prototypes === null && place === this.prototypes) {
        await new Promise((resolve) => setTimeout(resolve, 1500));
        if (place === this.prototypes) ({ prototypes } = await X.data.get(`api/detail/${this.encoder}/${image}`).catch(() => ({ prototypes: [] })));
      }
      place.hidden = !prototypes?.length;
      if (!place.hidden) place.replaceChildren(X.el("summary", {}, "Prototypes"), ...prototypes.map(prototypeRow));
    }
  };

  function prototypeRow({ prototype, probability, images }) {
    return X.el("div", { class: "prototype" }, X.el("p", { class: "quiet" }, `prototype ${prototype}: probability ${probability.toFixed(3)}`),
      X.el("div", { class: "tiles six" }, ...images.map((image) => X.tile(image, ""))));
  }

  // The choices above the pictures; all panels follow them.
  function controls() {
    const { about } = X.state, place = X.el("span", { class: "group", role: "radiogroup", "aria-label": "What is painted over the picture" });
    const modes = [["similarity", "Similarity"], ["attention", "Attention"], ["pca", "PCA"], ["picture", "Picture"]];
    const heads = Math.max(0, ...about.encoders.map((encoder) => (encoder.attention ? encoder.heads : 0)));
    const head = X.el("select", { change: () => X.setLook({ head: Number(head.value) }) }, X.el("option", { value: "-1" }, "mean"),
      ...Array.from({ length: heads }, (_, i) => X.el("option", { value: String(i) }, `head ${i + 1}`)));
    const mask = X.el("input", { type: "checkbox", change: () => X.setLook({ mask: mask.checked }) });
    const strength = X.el("input", {
      type: "range", min: "0.2", max: "1", step: "0.05", value: "0.6",
      input: () => document.documentElement.style.setProperty("--strength", strength.value),
    });
    const attentive = X.el("span", { class: "group", hidden: true },
      X.el("label", { class: "inline" }, "Head ", head), X.el("label", { class: "inline" }, mask, " only the strongest 60 %"));
    const patches = about.encoders.some((encoder) => encoder.patches);
    if (!patches) X.look.mode = "picture";
    const choice = X.choices(place, "mode", modes, X.look.mode, (mode) => {
      attentive.hidden = mode !== "attention";
      X.setLook({ mode });
    });
    if (!patches) for (const mode of ["similarity", "pca"]) choice.refuse(mode, "There are no patches: raw pixels are compared.");
    if (!heads) choice.refuse("attention", "There is no attention: the network has no class token.");
    X.chooseMode = choice.choose;
    X.nextHead = () => {
      if (!heads) return choice.choose("attention"); // it says why not
      head.value = String(((Number(head.value) + 2) % (heads + 1)) - 1);
      X.look.head = Number(head.value);
      return choice.choose("attention");
    };
    return X.el("div", { class: "bar" }, place, attentive, X.el("label", { class: "inline" }, "Strength ", strength));
  }

  X.startPanels = () => {
    const row = X.el("div", { class: "panel-row" });
    X.panels = X.slots().map((slot) => new X.Panel(slot));
    row.append(...X.panels.map(({ element }) => element));
    X.$("panels").append(controls(), row);
    X.on("open", ({ image, from }) => {
      X.say(`Opened ${X.nameOf(image)}.`, { seen: false });
      if (from !== "frames") X.$("panels").scrollTop = 0;
      const { top } = X.$("panels").getBoundingClientRect();
      if (from !== "frames" && from !== "start" && (top > innerHeight * 0.8 || top < -200)) {
        X.$("panels").scrollIntoView({ behavior: X.calm() ? "auto" : "smooth", block: "start" });
      }
    });
  };
})(window.Explorer);
