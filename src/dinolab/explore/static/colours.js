"use strict";
// Colours: of categories, of numbers along a ramp, and of heat over a picture.
((X) => {
  // Twelve that differ for most kinds of colour vision on light and dark ground; further ones go round the hues.
  const PALETTE = [
    [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233],
    [148, 103, 189], [140, 110, 60], [220, 70, 80], [90, 160, 50], [30, 170, 180], [190, 90, 200],
  ];
  const UNKNOWN = [140, 138, 132];
  const RAMP = [ // dark violet, blue, green, yellow: brighter all the way
    [68, 1, 84], [70, 50, 127], [54, 92, 141], [39, 127, 142], [31, 161, 135], [74, 194, 109], [159, 218, 58], [253, 231, 37],
  ];
  const HEAT = [ // black, violet, red, orange, pale yellow
    [0, 0, 8], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
  ];

  function fromHue(hue, lightness) {
    const channel = (n) => {
      const k = (n + hue / 30) % 12;
      return Math.round(255 * (lightness - 0.55 * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [channel(0), channel(8), channel(4)];
  }

  const category = (number) => {
    if (number < 0) return UNKNOWN;
    if (number < PALETTE.length) return PALETTE[number];
    return fromHue((number * 137.508) % 360, [0.45, 0.58, 0.68][number % 3]);
  };

  // 256 colours between the given ones, as one number each in the byte order of canvas pixels.
  function steps(anchors) {
    const table = new Uint8ClampedArray(256 * 4);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (anchors.length - 1), left = Math.min(anchors.length - 2, Math.floor(place)), share = place - left;
      for (let c = 0; c < 3; c++) table[4 * i + c] = anchors[left][c] * (1 - share) + anchors[left + 1][c] * share;
      table[4 * i + 3] = 255;
    }
    return table;
  }
  const ramp = steps(RAMP);
  X.heat = new Uint32Array(steps(HEAT).buffer);
  X.css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
  X.rampCss = (anchors = RAMP) => `linear-gradient(to right, ${anchors.map(X.css).join(", ")})`;
  X.heatCss = () => X.rampCss(HEAT);

  // The values of a column; tags are a column that the page itself keeps.
  X.columnValues = async (id) => {
    if (id === "tag") return X.tagColumn().of;
    const { columns, about } = X.state;
    if (!columns.has(id)) {
      const kind = about.columns.find((column) => column.id === id).kind;
      const type = { category: "int", number: "float", date: "double" }[kind];
      columns.set(id, (await X.data.array(`api/columns/${id}`, type)).values);
    }
    return columns.get(id);
  };

  // One colour of four bytes for each image, and what a legend needs to know.
  X.colouring = async (column) => {
    const { count } = X.state, bytes = new Uint8Array(4 * count);
    if (!column) {
      for (let i = 0; i < count; i++) bytes.set([...PALETTE[0], 255], 4 * i);
      return { bytes, kind: "none" };
    }
    const values = await X.columnValues(column.id);
    return column.kind === "category" ? categories(column, values, bytes) : numbers(column, values, bytes);
  };

  function categories(column, values, bytes) {
    // The largest categories get the clearest colours, unless all of them do and their order says something.
    let size = column.values.length, unknown = 0;
    if (!size) for (const value of values) size = Math.max(size, value + 1); // without names, numbers are the names
    const counts = new Uint32Array(size);
    for (const value of values) value < 0 ? unknown++ : counts[value]++;
    const order = [...counts.keys()];
    if (size > PALETTE.length) order.sort((a, b) => counts[b] - counts[a] || a - b);
    const colours = new Array(size);
    order.forEach((value, place) => { colours[value] = category(place); });
    for (let i = 0; i < values.length; i++) {
      const colour = values[i] < 0 ? UNKNOWN : colours[values[i]];
      bytes[4 * i] = colour[0]; bytes[4 * i + 1] = colour[1]; bytes[4 * i + 2] = colour[2]; bytes[4 * i + 3] = 255;
    }
    const entries = order.filter((value) => counts[value]).map((value) =>
      ({ value, name: column.values[value] ?? String(value), colour: colours[value], count: counts[value] }));
    if (unknown) entries.push({ value: -1, name: "unknown", colour: UNKNOWN, count: unknown });
    return { bytes, kind: "category", entries, values };
  }

  function numbers(column, values, bytes) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    for (let i = 0; i < values.length; i++) {
      const known = Number.isFinite(values[i]), at = 4 * (high > low && known ? Math.round((255 * (values[i] - low)) / (high - low)) : 0);
      for (let c = 0; c < 3; c++) bytes[4 * i + c] = known ? ramp[at + c] : UNKNOWN[c];
      bytes[4 * i + 3] = 255;
    }
    return { bytes, kind: column.kind, low, high };
  }
})(window.Explorer);
