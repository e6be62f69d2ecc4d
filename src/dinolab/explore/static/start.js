"use strict";
// Puts the page together when it opens.
((X) => {
  const KEPT_THEME = "dinolab theme";

  function startTheme() {
    const choice = X.$("theme"), root = document.documentElement;
    const apply = () => {
      if (choice.value) root.dataset.theme = choice.value;
      else delete root.dataset.theme;
      X.emit("theme");
    };
    try {
      choice.value = localStorage.getItem(KEPT_THEME) ?? "";
    } catch { /* the browser keeps nothing */ }
    choice.addEventListener("change", () => {
      try {
        localStorage.setItem(KEPT_THEME, choice.value);
      } catch { /* as above */ }
      apply();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => X.emit("theme"));
    apply();
  }

  async function fetchFacts() {
    const { state } = X;
    [state.about, state.images] = await Promise.all([X.data.get("api/about.json"), X.data.get("api/images.json")]);
    state.count = state.about.count;
    const { names, group } = state.images;
    group.forEach((video, image) => {
      const frame = video < 0 ? null : X.frameOf(names[image]);
      if (!frame) return;
      names[image] = `${frame.clip}, ${frame.words}`;
      state.frames.set(image, frame);
    });
    state.selected = new Uint8Array(state.count);
    const column = state.about.columns.find(({ id }) => id === "label");
    if (column) state.label = { column, values: await X.columnValues("label") };
  }

  function startMaps() {
    const { about } = X.state, names = { pca: "PCA", umap: "UMAP" }, projection = X.$("projection");
    X.maps = X.slots().map((slot) => new X.Map(slot, about.encoders[X.encoderOf(slot)].name));
    X.$("map-row").append(...X.maps.map(({ element }) => element));
    projection.append(...about.projections.map((id) => X.el("option", { value: id }, names[id] ?? id)));
    const load = () => Promise.all(X.maps.map((map) => map.load(projection.value))).catch(X.fail);
    projection.addEventListener("change", load);
    X.$("show-all").addEventListener("click", X.showAll);
    X.$("small").addEventListener("change", () => X.emit("near"));
    const tools = [["move", "Move"], ["lasso", "Lasso"], ["rectangle", "Rectangle"]];
    X.chooseTool = X.choices(X.$("tool"), "tool", tools, X.tool, (tool) => {
      X.tool = tool;
      X.$("map-row").dataset.tool = tool;
    }).choose;
    return load();
  }

  async function lookAt(file) {
    X.say(`Looking at ${file.name} ...`);
    const { image } = await X.data.post("api/look", file);
    X.open(image, { from: "own" });
  }

  // An image of one's own: chosen, or dropped anywhere on the page.
  function startOwn() {
    if (X.data.exported) return;
    const button = X.$("own"), input = X.$("own-file"), root = document.documentElement;
    button.hidden = false;
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      if (input.files[0]) lookAt(input.files[0]).catch(X.fail);
      input.value = "";
    });
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      root.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.classList.remove("dropping"); });
    document.addEventListener("drop", (event) => {
      root.classList.remove("dropping");
      if (!carries(event)) return;
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) lookAt(file).catch(X.fail);
    });
  }

  // #image=17, or #name=cats/17.jpg for the image whose location ends so; &encoder=1 looks at it with a checkpoint.
  function openAddressed() {
    const wanted = new URLSearchParams(location.hash.slice(1)), { locations } = X.state.images;
    let image = wanted.has("image") ? Number(wanted.get("image")) : -1;
    if (wanted.has("name")) image = locations.findIndex((one) => one === wanted.get("name") || one.endsWith(`/${wanted.get("name")}`));
    if (wanted.has("encoder")) for (const panel of X.panels) panel.choose(Number(wanted.get("encoder")));
    if (image >= 0 && image < X.state.count) X.open(image, { from: "start" });
    else if (wanted.has("image") || wanted.has("name")) X.say("The image of this address is not among these.", { error: true });
  }

  async function start() {
    X.data = new X.Data(window.EXPORTED);
    startTheme();
    await fetchFacts();
    const { about, count } = X.state, names = X.slots().map((slot) => about.encoders[X.encoderOf(slot)].name);
    document.title = `${about.title} - dinolab explore`;
    X.$("title").textContent = about.title.split("/").slice(-2).join("/");
    X.$("title").title = about.title;
    X.$("counts").textContent = `${count.toLocaleString("en")} images seen by ${names.join(" and ")}`;
    document.body.classList.add(X.slots().length > 1 ? "pair" : "one");
    X.startSelection();
    const maps = startMaps();
    X.startPanels();
    await Promise.all([X.startLegend(), X.startLists()]);
    X.startKeys();
    startOwn();
    openAddressed();
    window.addEventListener("hashchange", openAddressed);
    await maps;
    document.body.dataset.ready = "yes";
  }

  start().catch(X.fail);
})(window.Explorer);
