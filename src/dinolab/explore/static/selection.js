"use strict";
// Which images are selected, their tags, and files of them to take away.
((X) => {
  const tags = new Map(); // name -> set of images
  const absent = new Map(); // name -> locations of tagged images that are not here now

  // how: "replace", "add" or "remove".
  X.select = (images, how = "replace") => {
    const { state } = X;
    if (how === "replace") state.selected.fill(0);
    for (const image of images) state.selected[image] = how === "remove" ? 0 : 1;
    state.selectedCount = state.selected.reduce((sum, one) => sum + one, 0);
    state.found = null;
    X.emit("select");
  };

  X.selectedImages = () => {
    const images = [];
    X.state.selected.forEach((one, image) => { if (one) images.push(image); });
    return images;
  };

  X.tagsOf = (image) => [...tags].filter(([, images]) => images.has(image)).map(([name]) => name);

  // Tags as a column to colour by: each image's first tag. Null without tags.
  X.tagColumn = () => {
    if (!tags.size) return null;
    const values = new Int32Array(X.state.count).fill(-1), names = [...tags.keys()];
    names.forEach((name, number) => tags.get(name).forEach((image) => { if (values[image] < 0) values[image] = number; }));
    return { id: "tag", title: "tag", kind: "category", values: names, of: values };
  };

  function remember() {
    const { locations } = X.state.images, here = [...tags].map(([name, images]) => [name, [...images].map((image) => locations[image])]);
    const all = new Map([...absent, ...here].map(([name]) => [name, []]));
    for (const [name, places] of [...absent, ...here]) all.get(name).push(...places);
    X.keep("tags", [...all].filter(([, places]) => places.length));
  }

  // By location: images may have come and gone since the last visit.
  function recall() {
    const number = new Map(X.state.images.locations.map((location, image) => [location, image]));
    for (const [name, places] of X.kept("tags", [])) {
      const images = places.filter((place) => number.has(place)).map((place) => number.get(place));
      if (images.length) tags.set(name, new Set(images));
      absent.set(name, places.filter((place) => !number.has(place)));
    }
  }

  function tag(add) {
    const name = X.$("tag").value.trim(), images = X.selectedImages();
    if (!name) return X.say("Write a tag first.", { error: true });
    if (!images.length) return X.say("Select images first: with the lasso, in the legend, or from a search.", { error: true });
    const tagged = tags.get(name) ?? new Set();
    for (const image of images) add ? tagged.add(image) : tagged.delete(image);
    tagged.size ? tags.set(name, tagged) : tags.delete(name);
    remember();
    X.emit("tags");
    return X.say(`${images.length} images ${add ? "now have" : "no longer have"} the tag ${name}.`);
  }

  // Files: the selected images, or all images with a tag when nothing is selected.
  function chosen() {
    if (X.state.selectedCount) return X.selectedImages();
    return [...new Set([...tags.values()].flatMap((images) => [...images]))].sort((a, b) => a - b);
  }

  const READ = {
    served: "data.path=images.txt reads them",
    exported: "this page knows no folders, so images.txt needs images=FOLDER beside it (data.images=FOLDER in a training)",
  };

  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  X.csv = (rows) => rows.map((row) => row.map((value) => cell(String(value))).join(",") + "\n").join("");

  X.save = (name, text, type) => {
    const address = URL.createObjectURL(new Blob([text], { type }));
    X.el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  function save(kind) {
    const images = chosen(), { locations } = X.state.images;
    if (!images.length) return X.say("Select or tag images first.", { error: true });
    if (kind === "csv") {
      const rows = images.map((image) => [locations[image], X.labelOf(image), X.tagsOf(image).join(";")]);
      X.save("images.csv", X.csv([["filename", "label", "tags"], ...rows]), "text/csv");
    } else {
      X.save("images.txt", images.map((image) => locations[image] + "\n").join(""), "text/plain");
    }
    return X.say(`${images.length} images saved${kind === "csv" ? "" : `; ${READ[X.data.exported ? "exported" : "served"]}`}.`);
  }

  function show() {
    const { selectedCount } = X.state;
    X.$("selected").textContent = selectedCount ? `${selectedCount} selected` : "Nothing selected";
  }

  X.startSelection = () => {
    recall();
    X.on("select", show);
    const suggest = () => X.$("tags").replaceChildren(...[...tags.keys()].map((name) => X.el("option", { value: name })));
    X.on("tags", suggest);
    suggest();
    X.$("tag-add").addEventListener("click", () => tag(true));
    X.$("tag-remove").addEventListener("click", () => tag(false));
    X.$("tag").addEventListener("keydown", (event) => { if (event.key === "Enter") tag(true); });
    X.$("clear").addEventListener("click", () => X.select([]));
    X.$("save-csv").addEventListener("click", () => save("csv"));
    X.$("save-list").addEventListener("click", () => save("list"));
  };
})(window.Explorer);
