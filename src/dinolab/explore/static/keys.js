"use strict";
// Keys of the whole page, and the list of them.
((X) => {
  const KEYS = [ // key, what it does, and how
    ["/", "go to the search", () => X.$("search").focus()],
    ["v", "dragging moves the map", () => X.chooseTool("move")],
    ["l", "dragging draws a lasso; with Shift it adds, with Alt it takes away", () => X.chooseTool("lasso")],
    ["r", "dragging draws a rectangle", () => X.chooseTool("rectangle")],
    ["m", "go to the map; then arrow keys, +, -, 0 and Enter", () => X.maps[0].element.focus()],
    ["i", "go to the open image; then arrow keys and Enter", () => X.panels[0].painting.main.element.focus()],
    ["s", "paint the similarity to a patch", () => X.chooseMode("similarity")],
    ["a", "paint the attention", () => X.chooseMode("attention")],
    ["h", "attention of the next head", () => X.nextHead()],
    ["c", "paint the PCA of the patches", () => X.chooseMode("pca")],
    ["o", "paint nothing over the picture", () => X.chooseMode("picture")],
    ["[", "previous frame of a video", () => X.panels[0].step(-1)],
    ["]", "next frame of a video", () => X.panels[0].step(1)],
    ["Escape", "let go: the pinned patch, the search, then the selection", letGo],
    ["?", "this list", () => X.$("keys").showModal()],
  ];
  const FINDING_WORDS = { k: "keep the image", d: "drop the image", u: "undo the last decision", n: "next finding", p: "previous finding" };

  function letGo() {
    const pinned = X.panels.filter(({ painting }) => painting.pinned);
    if (pinned.length) for (const { painting } of pinned) painting.pin(painting.main, null);
    else if (X.$("search").value) clearSearch();
    else X.select([]);
  }

  function clearSearch() {
    X.$("search").value = "";
    X.$("search").dispatchEvent(new Event("input"));
  }

  const writes = (element) => element.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=range])");

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || X.$("keys").open) return;
    if (writes(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const run = (X.findingsShown() && X.findingKeys[event.key]) || KEYS.find(([key]) => key === event.key)?.[2];
    if (!run) return;
    event.preventDefault();
    run();
  }

  X.startKeys = () => {
    const rows = KEYS.map(([key, words]) => [key, words]);
    if (X.state.about.findings) rows.push(...Object.entries(FINDING_WORDS).map(([key, words]) => [key, `${words} (on the tab Findings)`]));
    X.$("keys-list").append(...rows.flatMap(([key, words]) => [X.el("dt", {}, X.el("kbd", {}, key)), X.el("dd", {}, words)]));
    X.$("help").addEventListener("click", () => X.$("keys").showModal());
    document.addEventListener("keydown", pressed);
  };
})(window.Explorer);
