"use strict";
// Draws many points as discs: with WebGL2, or into the pixels of a 2D canvas where there is none.
((X) => {
  const FEW = 3000; // points that a 2D canvas draws as discs

  const VERTEX = `#version 300 es
    in vec2 place; in vec4 colour; uniform vec2 centre; uniform vec2 scale; uniform float size; out vec4 shade;
    void main() { gl_Position = vec4((place - centre) * scale, 0.0, 1.0); gl_PointSize = size; shade = colour; }`;
  const FRAGMENT = `#version 300 es
    precision highp float; in vec4 shade; uniform float size; out vec4 pixel;
    void main() {
      float outside = length(gl_PointCoord - 0.5) * size - 0.5 * size + 1.0;
      float share = shade.a * clamp(1.0 - outside, 0.0, 1.0);
      pixel = vec4(shade.rgb * share, share);
    }`;

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error("WebGL2 cannot draw the map.");
    return made;
  }

  class WithWebGL {
    constructor(canvas, gl) {
      this.canvas = canvas;
      this.gl = gl;
      this.#begin();
      canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
      canvas.addEventListener("webglcontextrestored", () => {
        this.#begin();
        if (this.places) this.points(this.places);
        if (this.shades) this.colours(this.shades);
        X.emit("view");
      });
    }

    #begin() {
      const { gl } = this;
      this.program = program(gl);
      gl.useProgram(this.program);
      this.uniform = Object.fromEntries(["centre", "scale", "size"].map((name) => [name, gl.getUniformLocation(this.program, name)]));
      this.buffers = { place: this.#buffer("place", 2, gl.FLOAT, false), colour: this.#buffer("colour", 4, gl.UNSIGNED_BYTE, true) };
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    }

    #buffer(name, size, type, normalized) {
      const { gl } = this, buffer = gl.createBuffer(), at = gl.getAttribLocation(this.program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, type, normalized, 0, 0);
      return buffer;
    }

    #fill(buffer, values) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, buffer);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, values, this.gl.DYNAMIC_DRAW);
    }

    points(places) {
      this.places = places;
      this.#fill(this.buffers.place, places);
    }

    colours(shades) {
      this.shades = shades;
      this.#fill(this.buffers.colour, shades);
    }

    // runs: [first, end) of the points; centre and pixels per unit say where they lie; size in pixels of the canvas.
    draw(runs, { x, y, unit }, size) {
      const { gl, canvas } = this;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(this.uniform.centre, x, y);
      gl.uniform2f(this.uniform.scale, (2 * unit) / canvas.width, (2 * unit) / canvas.height);
      gl.uniform1f(this.uniform.size, size);
      for (const [first, end] of runs) gl.drawArrays(gl.POINTS, first, end - first);
    }
  }

  class WithPixels {
    constructor(canvas) {
      this.canvas = canvas;
      this.context = canvas.getContext("2d");
    }

    points(places) { this.places = places; }

    colours(shades) {
      this.shades = new Uint32Array(shades.buffer, shades.byteOffset, shades.length / 4);
      this.mixed = this.shades.some((shade) => shade >>> 24 < 128);
    }

    draw(runs, view, size) {
      const total = runs.reduce((sum, [first, end]) => sum + end - first, 0);
      total <= FEW ? this.#discs(runs, view, size) : this.#squares(runs, view, size);
    }

    // Round points, all of one colour at once; what is selected comes above the faint rest.
    #discs(runs, { x, y, unit }, size) {
      const { context, places, shades } = this, { width, height } = this.canvas, alike = new Map();
      for (const [first, end] of runs) {
        for (let k = first; k < end; k++) {
          if (!alike.has(shades[k])) alike.set(shades[k], []);
          alike.get(shades[k]).push(k);
        }
      }
      context.clearRect(0, 0, width, height);
      for (const [shade, points] of [...alike].sort(([one], [other]) => (one >>> 24) - (other >>> 24))) {
        context.fillStyle = `rgb(${shade & 255} ${(shade >> 8) & 255} ${(shade >> 16) & 255} / ${(shade >>> 24) / 255})`;
        context.beginPath();
        for (const k of points) {
          const px = (places[2 * k] - x) * unit + width / 2, py = height / 2 - (places[2 * k + 1] - y) * unit;
          context.moveTo(px + size / 2, py);
          context.arc(px, py, size / 2, 0, 2 * Math.PI);
        }
        context.fill();
      }
    }

    // Very many small points, written as pixels.
    #squares(runs, { x, y, unit }, size) {
      const { width, height } = this.canvas, { places, shades } = this;
      if (this.image?.width !== width || this.image?.height !== height) this.image = this.context.createImageData(width, height);
      const pixels = new Uint32Array(this.image.data.buffer), side = Math.max(1, Math.round(size));
      const middle = (width - side) / 2 - x * unit, level = (height - side) / 2 + y * unit;
      pixels.fill(0);
      for (const faint of this.mixed ? [true, false] : [false]) {
        for (const [first, end] of runs) {
          for (let k = first; k < end; k++) {
            const shade = shades[k], left = Math.round(places[2 * k] * unit + middle), top = Math.round(level - places[2 * k + 1] * unit);
            if (shade >>> 24 < 128 !== faint || left < 0 || top < 0 || left + side > width || top + side > height) continue;
            for (let row = top * width + left, last = row + side * width; row < last; row += width) {
              for (let at = row; at < row + side; at++) pixels[at] = shade;
            }
          }
        }
      }
      this.context.putImageData(this.image, 0, 0);
    }
  }

  // Whether a graphics processor draws. Where WebGL is computed on the CPU, writing pixels is three times as quick.
  function accelerated() {
    const gl = X.el("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
    if (!gl) return false;
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const name = gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
    gl.getExtension("WEBGL_lose_context")?.loseContext();
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
  }

  // A painter for a canvas. `?canvas=2d` or `?canvas=webgl2` in the address chooses.
  X.painter = (canvas) => {
    const chosen = new URLSearchParams(location.search).get("canvas"), wanted = chosen ? chosen === "webgl2" : accelerated();
    const gl = wanted ? canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true }) : null;
    return gl ? new WithWebGL(canvas, gl) : new WithPixels(canvas);
  };
})(window.Explorer);
