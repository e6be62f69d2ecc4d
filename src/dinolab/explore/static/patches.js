"use strict";
// Similarity of patches, and how values of patches are painted over a picture.
((X) => {
  // The dot products of one feature with all features (they have length one): out[p] for each patch p.
  X.similarities = (features, dim, query, out) => {
    const whole = dim - (dim % 4);
    for (let p = 0, at = 0; p < out.length; p++, at += dim) {
      let a = 0, b = 0, c = 0, d = 0; // four sums at once are faster than one
      for (let k = 0; k < whole; k += 4) {
        a += features[at + k] * query[k];
        b += features[at + k + 1] * query[k + 1];
        c += features[at + k + 2] * query[k + 2];
        d += features[at + k + 3] * query[k + 3];
      }
      for (let k = whole; k < dim; k++) a += features[at + k] * query[k];
      out[p] = a + b + c + d;
    }
    return out;
  };

  // The least value and the second greatest of all: the greatest is the patch with itself, always 1.
  X.range = (maps) => {
    let low = Infinity, high = -Infinity, second = -Infinity;
    for (const map of maps) {
      for (const value of map) {
        if (value < low) low = value;
        if (value > high) [high, second] = [value, high];
        else if (value > second) second = value;
      }
    }
    return [low, second > low ? second : high];
  };

  // A picture with a layer of patches over it, and a frame round one patch.
  X.Overlay = class {
    constructor(traits = {}) {
      this.image = X.el("img", { alt: "", decoding: "async", draggable: "false" });
      this.canvas = X.el("canvas", { "aria-hidden": "true", class: "patches" });
      this.frame = X.el("span", { "aria-hidden": "true", class: "frame", hidden: true });
      this.element = X.el("div", { class: "picture", ...traits }, this.image, this.canvas, this.frame);
      this.context = this.canvas.getContext("2d");
      this.features = null; // {shape: [h, w, D], values}
    }

    // shape: how many patches the picture is high and wide; what fills no whole patch was cut off. Null: the whole picture.
    show(address, alt, shape) {
      if (this.address !== address) this.image.src = this.address = address;
      this.image.alt = alt;
      this.image.style.aspectRatio = shape ? `${shape[1]} / ${shape[0]}` : "";
      if (shape) this.element.style.setProperty("--ratio", shape[1] / shape[0]);
    }

    #pixels(height, width) {
      if (this.canvas.width !== width || this.canvas.height !== height || !this.data) {
        Object.assign(this.canvas, { width, height });
        this.data = this.context.createImageData(width, height);
      }
      this.canvas.hidden = false;
      return new Uint32Array(this.data.data.buffer);
    }

    // values (h * w) as heat from low to high; where `mask` is 0 nothing but dark is painted.
    heat(height, width, values, low, high, mask = null) {
      const pixels = this.#pixels(height, width), scale = 255 / (high - low || 1);
      for (let p = 0; p < pixels.length; p++) {
        const step = mask && !mask[p] ? 0 : Math.round((values[p] - low) * scale);
        pixels[p] = X.heat[step < 0 ? 0 : step > 255 ? 255 : step];
      }
      this.context.putImageData(this.data, 0, 0);
    }

    colours(height, width, rgb) {
      const pixels = this.#pixels(height, width);
      for (let p = 0; p < pixels.length; p++) pixels[p] = 0xff000000 | (rgb[3 * p + 2] << 16) | (rgb[3 * p + 1] << 8) | rgb[3 * p];
      this.context.putImageData(this.data, 0, 0);
    }

    // Paint the similarity of `query` that is already in `this.likeness`.
    similar(low, high) {
      this.heat(this.features.shape[0], this.features.shape[1], this.likeness, low, high);
    }

    compare(query) {
      const [height, width, dim] = this.features.shape;
      if (this.likeness?.length !== height * width) this.likeness = new Float32Array(height * width);
      return X.similarities(this.features.values, dim, query, this.likeness);
    }

    clear() {
      this.canvas.hidden = true;
      this.frame.hidden = true;
    }

    // The patch [row, column] below a pointer, or null.
    patchAt(event) {
      if (!this.features) return null;
      const box = this.element.getBoundingClientRect(), [height, width] = this.features.shape;
      const row = Math.floor(((event.clientY - box.top) / box.height) * height), column = Math.floor(((event.clientX - box.left) / box.width) * width);
      return row >= 0 && column >= 0 && row < height && column < width ? [row, column] : null;
    }

    vector([row, column]) {
      const [, width, dim] = this.features.shape, at = (row * width + column) * dim;
      return this.features.values.subarray(at, at + dim);
    }

    mark(patch, pinned = false) {
      this.frame.hidden = !patch || !this.features;
      if (this.frame.hidden) return;
      const [height, width] = this.features.shape, { style } = this.frame;
      style.left = `${(100 * patch[1]) / width}%`;
      style.top = `${(100 * patch[0]) / height}%`;
      style.width = `${100 / width}%`;
      style.height = `${100 / height}%`;
      this.frame.classList.toggle("pinned", pinned);
    }
  };
})(window.Explorer);
