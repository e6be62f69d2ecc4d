"use strict";
// Points sorted into cells of a square, so that what is in view, near or inside a line is found without looking at all points.
((X) => {
  X.Grid = class {
    // positions: Float32Array of x, y in [-1, 1] for each image.
    constructor(positions) {
      const count = positions.length / 2;
      this.positions = positions;
      this.side = X.clamp(Math.round(Math.sqrt(count / 16)), 4, 256);
      const cells = new Uint32Array(count), ends = new Uint32Array(this.side ** 2 + 1);
      for (let i = 0; i < count; i++) {
        cells[i] = this.#cell(positions[2 * i + 1]) * this.side + this.#cell(positions[2 * i]);
        ends[cells[i] + 1]++;
      }
      for (let cell = 0; cell < this.side ** 2; cell++) ends[cell + 1] += ends[cell];
      this.starts = ends.slice();
      this.order = new Uint32Array(count); // the images cell by cell
      const next = ends.slice();
      for (let i = 0; i < count; i++) this.order[next[cells[i]]++] = i;
    }

    #cell(value) {
      return X.clamp(Math.floor(((value + 1) / 2) * this.side), 0, this.side - 1);
    }

    // Runs [first, end) of `order` that hold all images of a box, and perhaps some around it.
    runs({ left, right, bottom, top }) {
      const runs = [], first = this.#cell(left), last = this.#cell(right);
      if (right < -1 || left > 1 || top < -1 || bottom > 1) return runs;
      for (let row = this.#cell(bottom); row <= this.#cell(top); row++) {
        const start = this.starts[row * this.side + first], end = this.starts[row * this.side + last + 1];
        if (end > start) {
          const before = runs.at(-1);
          if (before && before[1] === start) before[1] = end;
          else runs.push([start, end]);
        }
      }
      return runs;
    }

    *within(box) {
      const { positions, order } = this;
      for (const [start, end] of this.runs(box)) {
        for (let k = start; k < end; k++) {
          const i = order[k], x = positions[2 * i], y = positions[2 * i + 1];
          if (x >= box.left && x <= box.right && y >= box.bottom && y <= box.top) yield i;
        }
      }
    }

    // The image nearest to a place, at most `radius` away, or -1.
    nearest(x, y, radius) {
      let best = -1, least = radius ** 2;
      for (const i of this.within({ left: x - radius, right: x + radius, bottom: y - radius, top: y + radius })) {
        const distance = (this.positions[2 * i] - x) ** 2 + (this.positions[2 * i + 1] - y) ** 2;
        if (distance <= least) [best, least] = [i, distance];
      }
      return best;
    }

    // The images inside a closed line [[x, y], ...].
    inside(line) {
      const xs = line.map(([x]) => x), ys = line.map(([, y]) => y), images = [];
      const box = { left: Math.min(...xs), right: Math.max(...xs), bottom: Math.min(...ys), top: Math.max(...ys) };
      for (const i of this.within(box)) {
        const x = this.positions[2 * i], y = this.positions[2 * i + 1];
        let odd = false; // how often a ray to the right crosses the line
        for (let a = 0, b = line.length - 1; a < line.length; b = a++) {
          if (ys[a] > y !== ys[b] > y && x < xs[a] + ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a])) odd = !odd;
        }
        if (odd) images.push(i);
      }
      return images;
    }
  };

  // A picture of where many points lie: the mean colour of each small square, the more opaque the more points it holds.
  X.densityPicture = (positions, colours, side = 768) => {
    const sums = new Float32Array(4 * side * side);
    for (let i = 0; i < positions.length / 2; i++) {
      const column = X.clamp(Math.floor(((positions[2 * i] + 1) / 2) * side), 0, side - 1);
      const row = X.clamp(Math.floor(((1 - positions[2 * i + 1]) / 2) * side), 0, side - 1);
      const at = 4 * (row * side + column), weight = colours[4 * i + 3] / 255;
      for (let c = 0; c < 3; c++) sums[at + c] += colours[4 * i + c] * weight;
      sums[at + 3] += weight;
    }
    let most = 0;
    for (let at = 3; at < sums.length; at += 4) most = Math.max(most, sums[at]);
    const canvas = X.el("canvas", { width: side, height: side }), context = canvas.getContext("2d");
    const picture = context.createImageData(side, side), scale = 165 / Math.log1p(most || 1);
    for (let at = 0; at < sums.length; at += 4) {
      const weight = sums[at + 3];
      if (!weight) continue;
      for (let c = 0; c < 3; c++) picture.data[at + c] = sums[at + c] / weight;
      picture.data[at + 3] = Math.min(255, 90 + scale * Math.log1p(weight));
    }
    context.putImageData(picture, 0, 0);
    return canvas;
  };
})(window.Explorer);
