"use strict";
// Findings of a curated set, one after the other: keep or drop the image. Each decision is saved at once, by the server or the browser.
((X) => {
  const findings = [], decisions = new Map(); // image -> "keep" or "drop"
  let here = 0, page = null, rename = null, history = [], last = Promise.resolve();

  const words = { keep: "kept", drop: "dropped" };
  const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}` : "");

  function picture(image, title) {
    return X.el("figure", {},
      X.el("button", { type: "button", class: "plain", title: "Show this image", click: () => X.open(image, { from: "list" }) },
        X.el("img", { src: X.data.url(`api/images/${image}?side=512`), alt: X.nameOf(image) })),
      X.el("figcaption", {}, X.el("b", {}, title), X.el("span", {}, X.state.images.locations[image]), X.el("span", { class: "quiet" }, X.labelOf(image))));
  }

  function show(focus = false) {
    const finding = findings[here], other = finding.other ?? null, decision = decisions.get(finding.image) ?? "";
    const open = findings.filter(({ image }) => !decisions.has(image)).length;
    rename(`Findings ${findings.length - open} / ${findings.length}`);
    const button = (title, key, run, traits = {}) => X.el("button", { type: "button", click: run, ...traits }, title, " ", X.el("kbd", {}, key));
    const jump = X.el("select", { "aria-label": "Kind of finding", change: (event) => go(kindStart(event.target.value)) },
      ...[...new Set(findings.map(({ kind }) => kind))].map((kind) => X.el("option", { value: kind }, kind)));
    jump.value = finding.kind;
    page.replaceChildren(
      X.el("div", { class: "bar" },
        button("Keep", "k", () => decide("keep"), { "aria-pressed": String(decision === "keep") }),
        button("Drop", "d", () => decide("drop"), { "aria-pressed": String(decision === "drop") }),
        button("Undo", "u", undo), button("Previous", "p", () => go(here - 1)), button("Next", "n", () => go(here + 1)), jump,
        X.data.exported ? X.el("button", { type: "button", click: download }, "Save review.csv") : null),
      X.el("p", { class: "finding" }, X.el("b", {}, `${here + 1} of ${findings.length}: ${finding.kind}.`), ` ${sentence(finding.words)} `,
        X.el("span", { class: `decision ${decision}` }, decision ? `This image is ${words[decision]}.` : "Not decided yet.")),
      X.el("div", { class: "two" }, picture(finding.image, "The image"), other === null ? null : picture(other, "The other one")));
    if (focus) page.focus();
  }

  const kindStart = (kind) => findings.findIndex((finding) => finding.kind === kind);

  function go(to) {
    here = X.clamp(to, 0, findings.length - 1);
    show();
    const { kind, words: about } = findings[here];
    X.say(`Finding ${here + 1} of ${findings.length}: ${kind}. ${sentence(about)}`);
  }

  // Decisions reach the server one after the other, so that the file ends as the page shows it.
  function store({ image, kind, other }, decision) {
    decision ? decisions.set(image, decision) : decisions.delete(image);
    if (X.data.exported) {
      const { locations } = X.state.images;
      X.keep("decisions", [...decisions].map(([number, made]) => [locations[number], made]));
      return;
    }
    last = last.then(() => X.data.post("api/decisions", [{ image, decision, kind, other: other ?? null }])).catch((error) =>
      X.say(`The decision on ${X.nameOf(image)} is not saved: ${error.message}`, { error: true }));
  }

  function decide(decision) {
    const finding = findings[here], { image } = finding;
    history.push([here, decisions.get(image) ?? ""]);
    store(finding, decision);
    if (here < findings.length - 1) go(here + 1);
    else show();
    X.say(`${X.nameOf(image)} ${words[decision]}.`);
  }

  function undo() {
    const step = history.pop();
    if (!step) return X.say("Nothing to undo.");
    store(findings[step[0]], step[1]);
    return go(step[0]);
  }

  function download() {
    const { locations } = X.state.images, rows = findings.filter(({ image }) => decisions.has(image)).map(({ image, kind, other }) =>
      [locations[image], decisions.get(image), kind, other === null || other === undefined ? "" : locations[other]]);
    X.save("review.csv", X.csv([["image", "decision", "kind", "other"], ...rows]), "text/csv");
    X.saved("decisions");
  }

  // Decisions of earlier visits, as the server has them. Those about an exported page are kept by the browser.
  async function earlier() {
    if (!X.data.exported) return X.data.get("api/decisions.json");
    const { locations } = X.state.images;
    return X.kept("decisions", []).map(([location, decision]) => ({ image: locations.indexOf(location), decision })).filter(({ image }) => image >= 0);
  }

  X.findingKeys = {
    k: () => decide("keep"), d: () => decide("drop"), u: undo, n: () => go(here + 1), p: () => go(here - 1),
  };
  X.findingsShown = () => page !== null && !page.hidden && findings.length > 0;

  X.startFindings = async () => {
    const tab = X.addTab("findings", "Findings");
    page = tab.page;
    rename = tab.name;
    const [list, stored] = await Promise.all([X.data.get("api/findings.json", []), earlier()]);
    findings.push(...list);
    for (const { image, decision } of stored) if (decision) decisions.set(image, decision);
    history = [];
    if (findings.length) {
      here = Math.max(0, findings.findIndex(({ image }) => !decisions.has(image)));
      show();
    } else {
      page.replaceChildren(X.el("p", { class: "quiet" }, "Nothing was found."));
    }
  };
})(window.Explorer);
