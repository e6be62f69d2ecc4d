"use strict";
// What the colours of the map mean, and which images are dimmed.
((X) => {
  const FAINT = 36;
  const most = () => (matchMedia("(max-width: 40rem)").matches ? 12 : 24); // entries that are shown at first
  let colouring = null;

  const figure = (value) => Number(value.toPrecision(3)).toString();
  // A date, with the time where all of them lie within two days.
  const day = (seconds, { low, high }) => X.date(seconds).slice(0, high - low < 172800 ? 16 : 10);

  // Images that are not searched for, or else not selected, are faint.
  function paint() {
    const { found, selected, selectedCount, count } = X.state;
    const bytes = colouring.bytes.slice(), bright = found ?? (selectedCount ? selected : null);
    if (bright) for (let i = 0; i < count; i++) if (!bright[i]) bytes[4 * i + 3] = FAINT;
    for (const map of X.maps) map.colour(bytes);
  }

  function entry({ value, name, colour, count }) {
    const swatch = X.el("i", { "aria-hidden": "true" });
    swatch.style.background = X.css(colour);
    return X.el("button", {
      type: "button", class: "entry", title: `Select these ${count} images`,
      click: (event) => X.select(imagesOf(value), event.shiftKey ? "add" : "replace"),
    }, swatch, X.el("span", { class: "entry-name" }, name), X.el("span", { class: "quiet" }, String(count)));
  }

  function imagesOf(value) {
    const images = [];
    colouring.values.forEach((other, image) => { if (other === value) images.push(image); });
    return images;
  }

  function show(all = false) {
    const place = X.$("legend");
    place.replaceChildren();
    if (colouring.kind === "category") {
      const entries = all ? colouring.entries : colouring.entries.slice(0, most());
      place.append(...entries.map(entry));
      const more = colouring.entries.length - entries.length;
      if (more) place.append(X.el("button", { type: "button", class: "entry", click: () => show(true) }, `and ${more} more`));
    } else if (colouring.kind !== "none") {
      const bar = X.el("i", { class: "ramp", "aria-hidden": "true" }), write = colouring.kind === "date" ? day : figure, { low, high } = colouring;
      bar.style.background = X.rampCss();
      if (Number.isFinite(low)) place.append(write(low, colouring), bar, write(high, colouring));
      else place.append("no values");
    }
  }

  X.columns = () => {
    const tags = X.tagColumn();
    return tags ? [...X.state.about.columns, tags] : X.state.about.columns;
  };

  function fillChoice() {
    const choice = X.$("colour"), chosen = choice.value;
    choice.replaceChildren(X.el("option", { value: "" }, "none"), ...X.columns().map(({ id, title }) => X.el("option", { value: id }, title)));
    choice.value = [...choice.options].some(({ value }) => value === chosen) ? chosen : "";
  }

  X.recolour = async () => {
    const id = X.$("colour").value, made = await X.colouring(X.columns().find((column) => column.id === id));
    if (X.$("colour").value !== id) return;
    colouring = made;
    show();
    paint();
  };

  X.startLegend = async () => {
    fillChoice();
    const choice = X.$("colour");
    const usual = ["label", "in", "cluster"].find((id) => X.columns().some((column) => column.id === id));
    choice.value = usual ?? "";
    choice.addEventListener("change", () => X.recolour().catch(X.fail));
    X.on("select", () => colouring && paint());
    X.on("tags", () => {
      fillChoice();
      if (choice.value === "tag" || !colouring) X.recolour().catch(X.fail);
    });
    colouring = await X.colouring(null);
    paint();
    const first = X.recolour().catch(X.fail);
    if (X.state.label) await first; // other columns may take the server a while
  };
})(window.Explorer);
