"use strict";
// What mouse, fingers and keys do on a map: move, zoom, draw a line round images, show and open the image under the pointer.
((X) => {
  X.tool = "move"; // or "lasso", "rectangle"

  function zoomAt(map, px, py, factor) {
    const [x, y] = map.toMap(px, py), zoom = X.clamp(X.view.zoom * factor, 0.5, 4000), real = zoom / X.view.zoom;
    X.moveView({ zoom, x: x - (x - X.view.x) / real, y: y - (y - X.view.y) / real });
  }

  const rectangle = ([x, y], [u, v]) => [[x, y], [u, y], [u, v], [x, v]];

  function showTip(image, event) {
    const tip = X.$("tip");
    tip.hidden = image < 0;
    if (image < 0) return;
    tip.replaceChildren(X.el("b", {}, X.nameOf(image)), X.el("span", { class: "quiet" }, X.labelOf(image)));
    const left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8), top = event.clientY + 20;
    tip.style.transform = `translate(${left}px, ${top + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 20 : top}px)`;
  }

  class Pointers {
    constructor(map) {
      this.map = map;
      this.down = new Map(); // pointer -> its last place
      this.moved = 0;
    }

    place(event) {
      const box = this.map.element.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }

    press(event) {
      if (event.button !== 0) return;
      this.map.keyboard = false;
      this.map.element.setPointerCapture(event.pointerId);
      const place = this.place(event);
      this.down.set(event.pointerId, place);
      this.moved = 0;
      this.begin = place;
      const draws = this.down.size === 1 && (X.tool !== "move" || event.shiftKey);
      this.map.line = draws ? [place] : null;
      showTip(-1);
    }

    move(event) {
      const { map } = this, place = this.place(event), before = this.down.get(event.pointerId);
      if (!before) {
        const image = map.nearest(...place);
        X.hover(image);
        showTip(image, event);
        map.element.classList.toggle("on", image >= 0);
        return;
      }
      const [dx, dy] = [place[0] - before[0], place[1] - before[1]];
      this.moved += Math.abs(dx) + Math.abs(dy);
      if (this.down.size === 2) this.#pinch(event.pointerId, place, before);
      else if (map.line) this.#draw(place);
      else if (this.moved > 3) X.moveView({ x: X.view.x - dx / map.unit, y: X.view.y + dy / map.unit });
      this.down.set(event.pointerId, place);
    }

    #draw(place) {
      const { map } = this, last = map.line.at(-1);
      if (X.tool === "rectangle") map.line = rectangle(this.begin, place);
      else if (Math.hypot(place[0] - last[0], place[1] - last[1]) > 3) map.line.push(place);
      map.soon();
    }

    #pinch(id, place, before) {
      const [[, other]] = [...this.down].filter(([key]) => key !== id);
      const length = ([x, y]) => Math.max(8, Math.hypot(x - other[0], y - other[1]));
      zoomAt(this.map, (place[0] + other[0]) / 2, (place[1] + other[1]) / 2, length(place) / length(before));
      X.moveView({ x: X.view.x - (place[0] - before[0]) / 2 / this.map.unit, y: X.view.y + (place[1] - before[1]) / 2 / this.map.unit });
      this.map.line = null;
    }

    release(event) {
      const { map } = this;
      if (!this.down.delete(event.pointerId)) return;
      const line = map.line?.map(([px, py]) => map.toMap(px, py));
      map.line = null;
      if (line?.length > 2 && this.moved > 6) {
        X.select(map.grid.inside(line), event.altKey ? "remove" : event.shiftKey && X.tool !== "move" ? "add" : "replace");
      } else if (this.moved <= 6 && event.type === "pointerup") {
        const image = map.nearest(...this.place(event), event.pointerType === "mouse" ? 14 : 26);
        if (image >= 0) X.open(image, { from: "map" });
      }
      map.soon();
    }
  }

  // Keys on a focused map; the image nearest to the middle counts as hovered.
  function keys(map, event) {
    const step = 60 / map.unit;
    const moves = {
      ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
    };
    const middle = [map.width / 2, map.height / 2];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) X.moveView({ x: X.view.x + moves[event.key][0] * step, y: X.view.y + moves[event.key][1] * step });
    else if (event.key === "+" || event.key === "=") zoomAt(map, ...middle, 1.4);
    else if (event.key === "-") zoomAt(map, ...middle, 1 / 1.4);
    else if (event.key === "0") X.showAll();
    else if (event.key === "Enter" && X.state.hovered >= 0) X.open(X.state.hovered, { from: "map" });
    else return;
    event.preventDefault();
    map.keyboard = true;
    if (event.key === "Enter") return;
    const image = map.nearest(...middle, Math.max(map.width, map.height));
    X.hover(image);
    if (image >= 0) X.say(`Nearest to the middle: ${X.nameOf(image)} ${X.labelOf(image)}`, { seen: false });
  }

  X.gestures = (map) => {
    const pointers = new Pointers(map), { element } = map;
    element.addEventListener("pointerdown", (event) => pointers.press(event));
    element.addEventListener("pointermove", (event) => pointers.move(event));
    element.addEventListener("pointerup", (event) => pointers.release(event));
    element.addEventListener("pointercancel", (event) => pointers.release(event));
    element.addEventListener("pointerleave", (event) => {
      if (pointers.down.size) return;
      X.hover(-1);
      showTip(-1);
    });
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoomAt(map, ...pointers.place(event), Math.exp(-X.clamp(event.deltaY * lines, -240, 240) * 0.0022));
    }, { passive: false });
    element.addEventListener("dblclick", (event) => zoomAt(map, ...pointers.place(event), 2));
    element.addEventListener("keydown", (event) => keys(map, event));
    element.addEventListener("blur", () => {
      map.keyboard = false;
      map.soon();
    });
  };
})(window.Explorer);
