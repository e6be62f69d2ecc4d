"use strict";
// What is painted over an image and its neighbours: similarity to a patch, attention, or PCA.
((X) => {
  X.look = { mode: "similarity", head: -1, mask: false }; // head -1: the mean of all
  X.setLook = (change) => {
    Object.assign(X.look, change);
    X.emit("look");
  };

  const MOST_NEIGHBOURS = 8;

  X.Painting = class {
    // readout(words): where the painting says what is seen.
    constructor(slot, readout) {
      this.slot = slot;
      this.readout = readout;
      this.main = new X.Overlay({
        class: "picture big", tabindex: "0", role: "application",
        pointermove: (event) => this.#pointed(this.main, event), pointerleave: () => this.#left(), click: (event) => this.#clicked(this.main, event),
        keydown: (event) => this.#key(event),
      });
      this.near = []; // overlays of neighbours
      this.pinned = null; // {vector, overlay, patch, encoder}: stays while other images are opened
      this.cursor = null;
      this.wish = 0;
    }

    get overlays() { return [this.main, ...this.near].filter(({ features }) => features); }

    // One overlay for each of the first neighbours, for the panel to place.
    begin(neighbours) {
      this.near = neighbours.slice(0, MOST_NEIGHBOURS).map(({ image }) => {
        const overlay = new X.Overlay({ pointermove: (event) => this.#pointed(overlay, event), pointerleave: () => this.#left() });
        overlay.number = image;
        return overlay;
      });
      return this.near;
    }

    // Load what an encoder saw of the image and of its neighbours.
    async load(encoder, image) {
      const wish = ++this.wish, { patches, attention } = X.state.about.encoders[encoder];
      Object.assign(this, { encoder, image, can: { similarity: patches, attention, pca: patches, picture: true } });
      this.main.number = image;
      this.cursor = null;
      if (this.pinned && this.pinned.encoder !== encoder) this.pinned = null;
      const load = async (overlay) => {
        overlay.features = null;
        this.#show(overlay);
        if (!patches) return;
        const features = await X.data.cached(`api/patches/${encoder}/${overlay.number}`, "half");
        if (wish !== this.wish) return;
        overlay.features = features;
        this.#show(overlay);
      };
      const others = this.near.map((overlay) => load(overlay).catch(() => {})); // a page's export may lack some neighbours
      await load(this.main);
      if (wish !== this.wish) return;
      await this.paint();
      await Promise.all(others);
      if (wish === this.wish) await this.paint();
    }

    // The pixels that the encoder saw, so that patches fit; or where nothing is painted over it, the large picture.
    #show(overlay) {
      const { patches, attention } = X.state.about.encoders[this.encoder], plain = overlay === this.main && X.look.mode === "picture";
      const whole = plain || !(patches || attention);
      overlay.show(X.data.url(whole ? `api/images/${overlay.number}?side=1024` : `api/pixels/${this.encoder}/${overlay.number}`),
        X.nameOf(overlay.number), whole ? null : overlay.features?.shape);
    }

    async paint() {
      const { mode } = X.look;
      if (this.can) this.#show(this.main);
      for (const overlay of [this.main, ...this.near]) overlay.clear();
      if (!this.can?.[mode]) return this.readout(this.can ? `This encoder has no ${mode === "attention" ? "attention" : "patches"}.` : "");
      if (mode === "similarity") return this.similarity();
      if (mode === "attention") return this.#attention();
      if (mode === "pca") return this.#pca();
      return this.readout("");
    }

    async #attention() {
      const wish = this.wish, { head, mask } = X.look;
      const [attention, masks] = await Promise.all(["attention", "mask"].map((kind) => X.data.cached(`api/${kind}/${this.encoder}/${this.image}`, "byte")));
      if (wish !== this.wish || X.look.mode !== "attention" || X.look.head !== head) return;
      const [maps, height, width] = attention.shape, size = height * width, number = head < 0 || head >= maps - 1 ? maps - 1 : head;
      const part = ({ values }) => values.subarray(number * size, (number + 1) * size);
      this.main.heat(height, width, part(attention), 0, 255, mask ? part(masks) : null);
      const share = part(masks).reduce((sum, one) => sum + one, 0) / size;
      this.readout(`Attention of ${number === maps - 1 ? "all heads, mean" : `head ${number + 1}`}. 60 % of it lies on ${Math.round(100 * share)} % of the patches.`);
    }

    async #pca() {
      const wish = this.wish, { shape, values } = await X.data.cached(`api/pca/${this.encoder}/${this.image}`, "byte");
      if (wish !== this.wish || X.look.mode !== "pca") return;
      this.main.colours(shape[0], shape[1], values);
      this.readout("The three main directions of the patches' features as red, green and blue.");
    }

    // Compare the pinned patch, or else the one under the pointer, with all patches of all pictures, and paint them.
    similarity() {
      const query = this.pinned ?? this.cursor;
      for (const overlay of [this.main, ...this.near]) {
        const here = query?.overlay === overlay && query.image === overlay.number;
        overlay.mark(here ? query.patch : null, this.pinned !== null);
      }
      if (!query || !this.main.features) {
        for (const overlay of this.overlays) overlay.canvas.hidden = true;
        return this.readout("Hover over a patch: what else looks like it to the encoder lights up. A click pins it.");
      }
      const { overlays } = this;
      const [low, high] = X.range(overlays.map((overlay) => overlay.compare(query.vector)));
      for (const overlay of overlays) overlay.similar(low, high);
      return this.readout(
        `${this.pinned ? "Pinned patch" : "Patch"} ${query.patch[0] + 1}, ${query.patch[1] + 1} of ${X.nameOf(query.image)}: ` +
        `similarity from ${low.toFixed(2)} (dark) to ${high.toFixed(2)} (bright).`);
    }

    #at(overlay, patch) {
      return { overlay, patch, image: overlay.number, encoder: this.encoder, vector: overlay.vector(patch) };
    }

    point(overlay, patch) {
      if (X.look.mode !== "similarity") return;
      const before = this.cursor;
      if (patch && before?.overlay === overlay && before.image === overlay.number && before.patch[0] === patch[0] && before.patch[1] === patch[1]) return;
      this.cursor = patch ? this.#at(overlay, patch) : null;
      if (!this.pinned) this.similarity();
    }

    // What the panel of the other encoder points at or pins, as fractions of the image's height and width; null for nothing.
    follow({ image, place, pinned }) {
      if (image !== this.image || !this.main.features) return;
      const [height, width] = this.main.features.shape;
      const patch = place && [Math.floor(place[0] * height), Math.floor(place[1] * width)];
      if (pinned === undefined) this.point(this.main, patch);
      else this.#hold(patch && this.#at(this.main, patch));
    }

    #share(overlay, patch, pinned) {
      if (overlay !== this.main) return;
      const [height, width] = overlay.features?.shape ?? [1, 1];
      X.emit("patch", { slot: this.slot, image: this.image, pinned, place: patch && [(patch[0] + 0.5) / height, (patch[1] + 0.5) / width] });
    }

    #hold(query) {
      this.pinned = query;
      if (X.look.mode === "similarity") this.similarity();
    }

    #pointed(overlay, event) {
      const patch = overlay.patchAt(event);
      if (!patch) return;
      this.point(overlay, patch);
      this.#share(overlay, patch);
    }

    #left() {
      this.point(this.main, null);
      this.#share(this.main, null);
    }

    #clicked(overlay, event) {
      const patch = overlay.patchAt(event);
      if (patch && X.look.mode === "similarity") this.pin(overlay, patch);
    }

    // Pin a patch; the pinned one again, or none: let it go.
    pin(overlay, patch) {
      const same = patch && this.pinned?.image === overlay.number && this.pinned.patch.join() === patch.join();
      this.#hold(patch && !same ? this.#at(overlay, patch) : null);
      this.#share(overlay, this.pinned?.patch ?? null, true);
      X.say(this.pinned ? "Pinned: it stays while you open other images. Escape lets it go." : "No patch is pinned.");
    }

    #key(event) {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!this.main.features || X.look.mode !== "similarity" || !(step || event.key === "Enter")) return;
      event.preventDefault();
      const [height, width] = this.main.features.shape, own = this.cursor?.overlay === this.main ? this.cursor.patch : null;
      if (event.key === "Enter") {
        if (own) this.pin(this.main, own);
        return;
      }
      const patch = own ? [X.clamp(own[0] + step[0], 0, height - 1), X.clamp(own[1] + step[1], 0, width - 1)] : [height >> 1, width >> 1];
      this.point(this.main, patch);
      this.#share(this.main, patch);
      const best = this.near.filter(({ features }) => features).map((overlay) => [Math.max(...overlay.likeness ?? [0]), overlay.number]);
      const [value, image] = best.reduce((most, one) => (one[0] > most[0] ? one : most), [-2, null]);
      X.say(`Patch ${patch[0] + 1}, ${patch[1] + 1}.` + (image === null ? "" : ` Most alike in ${X.nameOf(image)}: ${value.toFixed(2)}.`));
    }
  };
})(window.Explorer);
