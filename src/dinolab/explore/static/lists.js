"use strict";
// Lists below the map, each on a tab: what the search found, what is selected, what changed between two encoders, findings.
((X) => {
  const ROWS = 60;
  const tabs = new Map(); // id -> {tab, page}

  X.showTab = (id) => {
    for (const [other, { tab, page }] of tabs) {
      tab.setAttribute("aria-selected", String(other === id));
      tab.tabIndex = other === id ? 0 : -1;
      page.hidden = other !== id;
    }
    X.emit("tab", id);
  };

  X.addTab = (id, title) => {
    const page = X.el("div", { role: "tabpanel", id: `page-${id}`, "aria-labelledby": `tab-${id}`, tabindex: "0" });
    const tab = X.el("button", {
      type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `page-${id}`, click: () => X.showTab(id), keydown: walkTabs,
    }, title);
    X.$("tabs").append(tab);
    X.$("pages").append(page);
    tabs.set(id, { tab, page });
    return { page, name: (words) => { tab.textContent = words; } };
  };

  function walkTabs(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const ids = [...tabs.keys()], here = ids.findIndex((id) => tabs.get(id).tab === event.target);
    const next = ids[(here + step + ids.length) % ids.length];
    X.showTab(next);
    tabs.get(next).tab.focus();
  }

  // Arrow keys walk through the tiles of a list.
  function walkTiles(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains("tile")) return;
    const tiles = [...event.currentTarget.querySelectorAll("button")];
    tiles[tiles.indexOf(event.target) + step]?.focus();
    event.preventDefault();
  }

  // Images as tiles, the first ones at once and more on demand. line(image) is what stands below the name.
  X.fillList = (page, images, { empty, line = X.labelOf, before = null }) => {
    const list = X.el("div", { class: "tiles", keydown: walkTiles });
    let shown = 0;
    const more = X.el("button", { type: "button", click: () => grow() }, "Show more");
    function grow() {
      const next = images.slice(shown, shown + ROWS);
      list.append(...next.map((image) => X.tile(image, line(image))));
      shown += next.length;
      more.hidden = shown >= images.length;
      if (shown > ROWS) list.children[shown - next.length]?.focus();
    }
    if (images.length) grow();
    else more.hidden = true;
    page.replaceChildren(...(before ? [before] : []), images.length ? list : X.el("p", { class: "quiet" }, empty), more);
  };

  let lower = null; // names in small letters

  function look(term) {
    const { images, count, label } = X.state;
    lower ??= images.names.map((name) => name.toLowerCase());
    const labels = label ? label.column.values.map((name) => name.toLowerCase().includes(term)) : [];
    const found = new Uint8Array(count), list = [];
    for (let i = 0; i < count; i++) {
      if (lower[i].includes(term) || (label && labels[label.values[i]])) {
        found[i] = 1;
        list.push(i);
      }
    }
    return { found, list };
  }

  function startSearch() {
    const { page, name } = X.addTab("found", "Found"), input = X.$("search");
    const help = "Names and labels that hold the searched letters are listed here.";
    let later = 0, list = [];
    X.fillList(page, [], { empty: help });
    function search() {
      const term = input.value.trim().toLowerCase();
      clearTimeout(later);
      const result = term ? look(term) : { found: null, list: [] };
      list = result.list;
      X.state.found = result.found;
      name(term ? `Found ${list.length}` : "Found");
      const select = X.el("button", { type: "button", click: () => X.select(list) }, "Select all of them");
      X.fillList(page, list, { empty: term ? "No name and no label holds these letters." : help, before: list.length ? select : null });
      X.emit("select");
      if (term) {
        X.showTab("found");
        X.say(`${list.length} images found.`);
      }
    }
    input.addEventListener("input", () => {
      clearTimeout(later);
      later = setTimeout(search, 150);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      search();
      if (list.length) X.open(list[0], { from: "list" });
    });
  }

  function startSelected() {
    const { page, name } = X.addTab("selected", "Selected");
    const show = () => {
      const images = X.selectedImages();
      name(images.length ? `Selected ${images.length}` : "Selected");
      X.fillList(page, images, {
        empty: "Draw a line round images with the lasso, or choose an entry of the legend.",
        line: (image) => [X.labelOf(image), ...X.tagsOf(image)].filter(Boolean).join(" · "),
      });
      if (images.length && !X.state.found) X.showTab("selected");
    };
    X.on("select", show);
    X.on("tags", show);
    show();
  }

  async function startChanges() {
    const { page } = X.addTab("changes", "Changed most");
    page.textContent = "Neighbours are compared ...";
    const changes = await X.data.get("api/changes.json", []);
    const overlap = new Map(changes.map((change) => [change.image, change.overlap]));
    X.fillList(page, [...overlap.keys()], {
      before: X.el("p", { class: "quiet" }, "How many of their 24 nearest neighbours both encoders agree on, the fewest first."),
      empty: "No list of changes.", line: (image) => `${Math.round(100 * overlap.get(image))} % kept`,
    });
  }

  X.startLists = async () => {
    startSearch();
    startSelected();
    if (X.slots().length > 1) startChanges().catch(X.fail); // the page does not wait for it
    if (X.state.about.findings) await X.startFindings().catch(X.fail);
    X.showTab(X.state.about.findings ? "findings" : X.slots().length > 1 ? "changes" : "found");
  };
})(window.Explorer);
