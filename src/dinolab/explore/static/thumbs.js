"use strict";
// Small pictures: 256 to a file (an atlas) for sets of some thousand images, one by one for larger sets and larger sides.
((X) => {
  const CELL = 48, PER_PAGE = 256, ACROSS = 16;
  const MOST_WITH_ATLAS = 16384, PAGES_KEPT = 64, SINGLES_KEPT = 400, AT_ONCE = 6;
  const kept = { page: new Map(), single: new Map() };
  const most = { page: PAGES_KEPT, single: SINGLES_KEPT };
  const waiting = [];
  let loading = 0;

  const single = (image) => X.data.url(`api/images/${image}?side=96`);

  function begin() {
    while (loading < AT_ONCE && waiting.length) {
      const { picture, address } = waiting.pop(); // the latest wish first: it is what is in view now
      loading++;
      picture.onload = picture.onerror = () => {
        loading--;
        picture.ready = picture.naturalWidth > 0;
        X.emit("thumb");
        begin();
      };
      picture.src = address;
    }
  }

  function wanted(kind, key, address) {
    const store = kept[kind];
    let picture = store.get(key);
    if (picture) {
      store.delete(key);
    } else {
      picture = new Image();
      waiting.push({ picture, address: address() });
      begin();
    }
    store.set(key, picture);
    if (store.size > most[kind]) {
      const [oldest, gone] = store.entries().next().value;
      store.delete(oldest);
      const place = waiting.findIndex((wish) => wish.picture === gone);
      if (place >= 0) waiting.splice(place, 1);
    }
    return picture;
  }

  // Width and height of an image inside a square of side 1.
  X.fit = (image) => {
    const width = X.state.images.width[image] || 1, height = X.state.images.height[image] || 1, longer = Math.max(width, height);
    return [width / longer, height / longer];
  };

  // Draw an image with its middle at x, y; false while its picture is on the way. Returns the box that it fills.
  X.drawThumb = (context, image, x, y, side) => {
    const [w, h] = X.fit(image), box = [x - (w * side) / 2, y - (h * side) / 2, w * side, h * side];
    const small = X.state.count <= MOST_WITH_ATLAS;
    if (!small || side > 1.4 * CELL) {
      const picture = wanted("single", image, () => single(image));
      if (picture.ready) {
        context.drawImage(picture, ...box);
        return box;
      }
      if (!small) return null;
    }
    const page = Math.floor(image / PER_PAGE), place = image % PER_PAGE;
    const atlas = wanted("page", page, () => X.data.url(`api/atlas/${page}`));
    if (!atlas.ready) return null;
    const left = (place % ACROSS) * CELL + ((1 - w) * CELL) / 2, top = Math.floor(place / ACROSS) * CELL + ((1 - h) * CELL) / 2;
    context.drawImage(atlas, left, top, w * CELL, h * CELL, ...box);
    return box;
  };

  // An <img> of an image for lists. The name stands beside it, so it has no words of its own.
  X.thumb = (image) => X.el("img", { src: single(image), alt: "", loading: "lazy", decoding: "async", draggable: "false" });

  // A button that opens an image: picture, name, and a line more.
  X.tile = (image, line = X.labelOf(image), traits = {}) =>
    X.el("button", {
      type: "button", class: "tile", "data-image": image, title: X.state.images.locations[image],
      click: () => X.open(image, { from: "list" }),
      pointerenter: () => X.hover(image), pointerleave: () => X.hover(-1), focus: () => X.hover(image), blur: () => X.hover(-1),
      ...traits,
    }, X.thumb(image), X.el("span", { class: "tile-name" }, X.nameOf(image)), line ? X.el("span", { class: "quiet" }, line) : null);
})(window.Explorer);
