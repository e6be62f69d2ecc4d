"use strict";
// The one door to the data: a server's answers, or in an exported page what data.js put into window.EXPORTED.
((X) => {
  const CACHE_BYTES = 192 * 2 ** 20;
  let halves = null; // the value of each of the 65,536 float16 numbers

  function table() {
    const values = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
      if (exponent === 0) values[bits] = sign * 2 ** -24 * fraction;
      else if (exponent === 31) values[bits] = fraction ? NaN : sign * Infinity;
      else values[bits] = sign * 2 ** (exponent - 25) * (1024 + fraction);
    }
    return values;
  }

  function fromHalves(buffer) {
    halves ??= table();
    const bits = new Uint16Array(buffer), values = new Float32Array(bits.length);
    for (let i = 0; i < bits.length; i++) values[i] = halves[bits[i]];
    return values;
  }

  const TYPES = {
    half: fromHalves,
    float: (buffer) => new Float32Array(buffer),
    double: (buffer) => new Float64Array(buffer),
    int: (buffer) => new Int32Array(buffer),
    byte: (buffer) => new Uint8Array(buffer),
  };

  function decoded(text) {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    return bytes.buffer;
  }

  async function answer(request) {
    const response = await request.catch(() => { throw new Error("The explorer's server does not answer. Is it still running?"); });
    if (response.ok) return response;
    const words = await response.json().then((body) => body.error, () => null);
    throw new Error(words ?? `The server answered ${response.status}.`);
  }

  X.Data = class {
    #kept = new Map(); // path -> promise of an array, the one used last at the end
    #bytes = 0;

    constructor(exported) {
      this.exported = exported ?? null;
    }

    #stored(path) {
      if (!(path in this.exported)) throw new Error(`This page was exported without ${path}.`);
      return this.exported[path];
    }

    // The answer, asked for again while the server still computes it: soon at first, then each second. waiting({done, message}) hears how far it is.
    async #ready(path, waiting = ({ message }) => X.say(`${message} ...`)) {
      for (let pause = 50; ; pause = Math.min(2 * pause, 1000)) {
        const response = await answer(fetch(path));
        if (response.status !== 202) return response;
        waiting(await response.json());
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    }

    // JSON. In an export, `otherwise` stands for what it lacks.
    async get(path, otherwise) {
      if (this.exported) return path in this.exported || otherwise === undefined ? this.#stored(path) : otherwise;
      return (await this.#ready(path)).json();
    }

    // {shape, values} of an array.
    async array(path, type, waiting) {
      if (this.exported) {
        const { shape, data } = this.#stored(path);
        return { shape, values: TYPES[type](decoded(data)) };
      }
      const response = await this.#ready(path, waiting), shape = (response.headers.get("X-Shape") ?? "").split(",").map(Number);
      return { shape, values: TYPES[type](await response.arrayBuffer()) };
    }

    // As array, and what was asked for lately is kept.
    cached(path, type) {
      let promise = this.#kept.get(path);
      if (promise) {
        this.#kept.delete(path);
      } else {
        promise = this.array(path, type);
        promise.then(({ values }) => {
          this.#bytes += values.byteLength;
          this.#forget();
        }, () => this.#kept.delete(path));
      }
      this.#kept.set(path, promise);
      return promise;
    }

    #forget() {
      for (const [path, promise] of this.#kept) {
        if (this.#bytes <= CACHE_BYTES) return;
        this.#kept.delete(path);
        promise.then(({ values }) => { this.#bytes -= values.byteLength; }, () => {});
        if (this.#kept.size <= 12) return; // one image, its neighbours and overlays
      }
    }

    // An address for <img>. An export has each image once, also in place of the pixels that an encoder saw.
    url(path) {
      if (!this.exported) return path;
      const image = /^api\/(?:images|pixels\/\d+)\/(\w+)/.exec(path);
      return image ? `images/${image[1]}.jpg` : `data:image/jpeg;base64,${this.#stored(path)}`;
    }

    async post(path, body) {
      const json = !(body instanceof Blob);
      const headers = { "Content-Type": json ? "application/json" : "application/octet-stream" };
      return (await answer(fetch(path, { method: "POST", headers, body: json ? JSON.stringify(body) : body }))).json();
    }
  };
})(window.Explorer);
