"use strict";
// A map of all images: points from far, thumbnails from near, density where there are too many points. All maps share one view.
((X) => {
  const DENSE = 200000; // more points than this in view are drawn as density
  const NEAR = 3000; // fewer points than this in view: thumbnails where they do not overlap

  X.view = { x: 0, y: 0, zoom: 1 };
  X.moveView = (change) => {
    Object.assign(X.view, change);
    X.view.zoom = X.clamp(X.view.zoom, 0.5, 4000);
    X.view.x = X.clamp(X.view.x, -1.2, 1.2);
    X.view.y = X.clamp(X.view.y, -1.2, 1.2);
    X.emit("view");
  };

  X.showAll = () => X.moveView({ x: 0, y: 0, zoom: 1 });

  // Move the maps where an image is out of sight, so that all of them show it.
  X.on("open", ({ image, from }) => {
    const maps = (X.maps ?? []).filter(({ grid, width }) => grid && width);
    if (from === "map" || !(image < X.state.count) || maps.every((map) => map.shows(image))) return;
    const places = maps.map(({ grid }) => [grid.positions[2 * image], grid.positions[2 * image + 1]]);
    const [x, y] = [0, 1].map((axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length);
    const zooms = maps.flatMap(({ width, height, unit }, i) => [
      (0.42 * width * X.view.zoom) / (unit * Math.abs(places[i][0] - x)), (0.42 * height * X.view.zoom) / (unit * Math.abs(places[i][1] - y)),
    ]);
    X.moveView({ x, y, zoom: Math.min(X.view.zoom, ...zooms) });
  });

  X.Map = class {
    constructor(slot, title) {
      this.slot = slot;
      this.points = X.el("canvas", { class: "points", "aria-hidden": "true" });
      this.over = X.el("canvas", { class: "over", "aria-hidden": "true" });
      this.wait = X.el("p", { class: "wait", role: "status" });
      this.element = X.el("div", {
        class: "map", tabindex: "0", role: "application", "aria-label": `Map of ${X.state.count} images, ${title}`, "aria-describedby": "map-help",
      }, this.points, this.over, this.wait, X.slots().length > 1 ? X.el("span", { class: "map-name" }, title) : null);
      this.context = this.over.getContext("2d");
      this.painter = X.painter(this.points);
      this.line = null; // the lasso or rectangle being drawn, in pixels
      new ResizeObserver(() => this.#resized()).observe(this.element);
      for (const name of ["view", "hover", "thumb", "neighbours", "theme", "near"]) X.on(name, () => this.soon());
      X.gestures(this);
    }

    // Show a projection as soon as the server has computed it.
    async load(projection) {
      this.wish = projection;
      const waiting = ({ done, message }) => {
        if (projection === this.wish) this.wait.textContent = done ? `${message}: ${Math.round(100 * done)} %` : `${message} ...`;
      };
      const { values } = await X.data.array(`api/maps/${X.encoderOf(this.slot)}/${projection}`, "float", waiting);
      if (projection !== this.wish) return;
      this.wait.textContent = "";
      this.place(values);
    }

    place(positions) {
      this.grid = new X.Grid(positions);
      const sorted = new Float32Array(positions.length);
      this.grid.order.forEach((image, k) => {
        sorted[2 * k] = positions[2 * image];
        sorted[2 * k + 1] = positions[2 * image + 1];
      });
      this.painter.points(sorted);
      if (this.bytes) this.colour(this.bytes);
      this.soon();
    }

    // bytes: red, green, blue and opacity of each image.
    colour(bytes) {
      this.bytes = bytes;
      this.density = null;
      if (!this.grid) return;
      const source = new Uint32Array(bytes.buffer), sorted = new Uint32Array(source.length), { order } = this.grid;
      for (let k = 0; k < order.length; k++) sorted[k] = source[order[k]];
      this.painter.colours(new Uint8Array(sorted.buffer));
      this.soon();
    }

    #resized() {
      const { clientWidth: width, clientHeight: height } = this.element, ratio = Math.min(devicePixelRatio || 1, 2);
      if (!width || !height) return;
      Object.assign(this, { width, height, ratio });
      for (const canvas of [this.points, this.over]) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      this.draw();
    }

    get unit() { return X.view.zoom * 0.44 * Math.min(this.width, this.height); } // pixels per unit of the map

    toScreen(image) {
      const { positions } = this.grid;
      return [
        (positions[2 * image] - X.view.x) * this.unit + this.width / 2,
        this.height / 2 - (positions[2 * image + 1] - X.view.y) * this.unit,
      ];
    }

    shows(image) {
      const [x, y] = this.toScreen(image);
      return x >= 0 && y >= 0 && x <= this.width && y <= this.height;
    }

    toMap(px, py) {
      return [X.view.x + (px - this.width / 2) / this.unit, X.view.y - (py - this.height / 2) / this.unit];
    }

    nearest(px, py, pixels = 14) {
      if (!this.grid) return -1;
      const thumb = this.thumbs?.findLast(([, x, y, side]) => Math.max(Math.abs(px - x), Math.abs(py - y)) <= side / 2);
      return thumb ? thumb[0] : this.grid.nearest(...this.toMap(px, py), pixels / this.unit);
    }

    soon() {
      if (this.asked) return;
      this.asked = requestAnimationFrame(() => {
        this.asked = 0;
        this.draw();
      });
    }

    draw() {
      if (!this.grid || !this.width || !this.bytes) return;
      const { context, ratio, width, height } = this;
      const [left, top] = this.toMap(0, 0), [right, bottom] = this.toMap(width, height);
      const runs = this.grid.runs({ left, right, bottom, top });
      const total = runs.reduce((sum, [first, end]) => sum + end - first, 0);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      const size = X.clamp(12 - 2 * Math.log10(total + 1), 2.5, 8);
      this.painter.draw(total > DENSE ? [] : runs, { x: X.view.x, y: X.view.y, unit: this.unit * ratio }, size * ratio);
      if (total > DENSE) this.#drawDensity();
      this.thumbs = total <= NEAR && X.$("small").checked ? this.#drawThumbs(runs, total) : [];
      this.#drawMarks();
    }

    #drawDensity() {
      this.density ??= X.densityPicture(this.grid.positions, this.bytes);
      const side = 2 * this.unit;
      this.context.drawImage(this.density, this.width / 2 - (X.view.x + 1) * this.unit, this.height / 2 - (1 - X.view.y) * this.unit, side, side);
    }

    // Thumbnails of the images in view, each where no other one lies yet. Returns [image, x, y, side] of each.
    #drawThumbs(runs, total) {
      const { context, bytes } = this, side = X.clamp(260 / Math.log2(total + 4), 28, 72), drawn = [], taken = new Map();
      const images = runs.flatMap(([first, end]) => [...this.grid.order.subarray(first, end)]).sort((a, b) => a - b);
      for (const image of images) {
        const [x, y] = this.toScreen(image), column = Math.floor(x / side), row = Math.floor(y / side);
        if (x < -side || y < -side || x > this.width + side || y > this.height + side) continue;
        let free = true;
        for (let r = row - 1; r <= row + 1 && free; r++) {
          for (let c = column - 1; c <= column + 1 && free; c++) {
            const other = taken.get(r * 4096 + c);
            if (other && Math.abs(other[0] - x) < side && Math.abs(other[1] - y) < side) free = false;
          }
        }
        if (!free) continue;
        taken.set(row * 4096 + column, [x, y]);
        context.globalAlpha = bytes[4 * image + 3] / 255;
        const square = side - 5;
        if (X.drawThumb(context, image, x, y, square)) {
          context.lineWidth = 2;
          context.strokeStyle = X.css(bytes.subarray(4 * image, 4 * image + 3));
          context.strokeRect(x - square / 2, y - square / 2, square, square);
          drawn.push([image, x, y, square]);
        }
      }
      context.globalAlpha = 1;
      return drawn;
    }

    #ring(image, radius, colour, width = 2) {
      const { context } = this, [x, y] = this.toScreen(image);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    }

    // Rings round the open and the hovered image, lines to the neighbours, and the line of a lasso.
    #drawMarks() {
      const { context } = this, { open, hovered, count } = X.state, ink = getComputedStyle(this.element).color;
      context.strokeStyle = ink;
      if (typeof open === "number" && open < count) {
        const [x, y] = this.toScreen(open);
        context.lineWidth = 1;
        context.globalAlpha = 0.55;
        for (const { image } of X.state.neighbours[this.slot]) {
          context.beginPath();
          context.moveTo(x, y);
          context.lineTo(...this.toScreen(image));
          context.stroke();
        }
        context.globalAlpha = 1;
        this.#ring(open, 11, ink, 3);
      }
      if (hovered >= 0 && hovered < count && !this.line) this.#drawHovered(hovered, ink);
      if (this.line?.length > 1) {
        context.beginPath();
        this.line.forEach(([x, y]) => context.lineTo(x, y));
        context.closePath();
        context.lineWidth = 1.5;
        context.setLineDash([5, 4]);
        context.stroke();
        context.setLineDash([]);
        context.globalAlpha = 0.08;
        context.fillStyle = ink;
        context.fill();
        context.globalAlpha = 1;
      }
      if (this.keyboard) this.#drawMiddle(ink);
    }

    // A ring round the hovered image, and its picture above it, or below it near the top.
    #drawHovered(image, ink) {
      const { context, width } = this, [x, y] = this.toScreen(image), side = 72;
      this.#ring(image, 8, ink);
      if (x < -20 || y < -20 || x > width + 20 || y > this.height + 20) return;
      const left = X.clamp(x, side / 2 + 4, width - side / 2 - 4), middle = y > side + 20 ? y - side / 2 - 14 : y + side / 2 + 14;
      if (!X.drawThumb(context, image, left, middle, side)) return;
      context.lineWidth = 2;
      context.strokeRect(left - side / 2, middle - side / 2, side, side);
    }

    #drawMiddle(ink) {
      const { context, width, height } = this;
      context.strokeStyle = ink;
      context.lineWidth = 1.5;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [0, 1]]) {
        context.moveTo(width / 2 - 12 * dx, height / 2 - 12 * dy);
        context.lineTo(width / 2 + 12 * dx, height / 2 + 12 * dy);
      }
      context.stroke();
    }
  };
})(window.Explorer);
