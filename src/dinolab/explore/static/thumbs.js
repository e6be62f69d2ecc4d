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

  // Draw the middle square of an image round x, y; false while its picture is on the way.
  X.drawThumb = (context, image, x, y, side) => {
    const box = [x - side / 2, y - side / 2, side, side], small = X.state.count <= MOST_WITH_ATLAS;
    if (!small || side > 1.4 * CELL) {
      const picture = wanted("single", image, () => single(image));
      if (picture.ready) {
        const { naturalWidth: width, naturalHeight: height } = picture, square = Math.min(width, height);
        context.drawImage(picture, (width - square) / 2, (height - square) / 2, square, square, ...box);
        return true;
      }
      if (!small) return false;
    }
    const page = Math.floor(image / PER_PAGE), place = image % PER_PAGE;
    const atlas = wanted("page", page, () => X.data.url(`api/atlas/${page}`));
    if (!atlas.ready) return false;
    context.drawImage(atlas, (place % ACROSS) * CELL, Math.floor(place / ACROSS) * CELL, CELL, CELL, ...box);
    return true;
  };

  // An <img> of an image for lists. The name stands beside it, so it has no words of its own.
  X.thumb = (image) => X.el("img", { src: single(image), alt: "", loading: "lazy", decoding: "async", draggable: "false" });

  // A button that opens an image: picture, name, and a line more.
  X.tile = (image, line = X.labelOf(image), traits = {}) => {
    const frame = X.state.frames.get(image), lines = [frame?.words, line].filter(Boolean).join(" · ");
    return X.el("button", {
      type: "button", class: "tile", "data-image": image, title: X.state.images.locations[image],
      click: () => X.open(image, { from: "list" }),
      pointerenter: () => X.hover(image), pointerleave: () => X.hover(-1), focus: () => X.hover(image), blur: () => X.hover(-1),
      ...traits,
    }, X.thumb(image), X.el("span", { class: "tile-name" }, frame?.clip ?? X.nameOf(image)), lines ? X.el("span", { class: "quiet" }, lines) : null);
  };
})(window.Explorer);
