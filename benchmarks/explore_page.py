"""How quick is the explorer's page? Frames per second of its map, latency of a hover, memory, and time to the first map.

    python benchmarks/explore_page.py [--points 10000 100000 1000000] [--out docs/results/explore.json]

The page runs in a headless Chromium with made-up data from a server of files, so the figures are of the page alone. Where the
machine has no graphics processor, the page leaves WebGL aside and writes points as pixels (`--canvas auto`); `--canvas webgl2` makes
Chromium compute WebGL on the CPU. The result names what has drawn. A run takes about a minute.

`frames_per_s`: the map moves by some pixels in every frame for some seconds (Chromium draws at most 60 frames a second). `draw_ms`: what
the page itself computes for a frame, which other work on the machine disturbs less; points by WebGL are drawn outside of it.
`hover_ms`: from a pointer's move to another patch until the similarity to all patches of the image and of its eight neighbours is
computed and handed to the canvases; `hover_to_frame_ms`: until the frame that shows it is made.
"""

import argparse
import json
import mimetypes
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

import dinolab.explore
from dinolab.machine import environment

STATIC = Path(dinolab.explore.__file__).parent / "static"
SIDE, WIDTH = 28, 384  # patches along a side of an image, features of each: ViT-S
CLASSES, NEIGHBOURS = 20, 8
SECONDS = 4.0  # of moving the map

MOVE = """async (seconds) => {
  const X = Explorer, draws = [], draw = X.maps[0].draw.bind(X.maps[0]);
  X.maps[0].draw = () => { const before = performance.now(); draw(); draws.push(performance.now() - before); };
  const start = performance.now(); let frames = 0, longest = 0, last = start;
  while (performance.now() - start < 1000 * seconds) {
    const angle = (performance.now() - start) / 700;
    X.moveView({ x: 0.1 * Math.cos(angle), y: 0.1 * Math.sin(angle) });
    await new Promise(requestAnimationFrame);
    const now = performance.now(); longest = Math.max(longest, now - last); last = now; frames++;
  }
  return { frames_per_s: 1000 * frames / (last - start), longest_frame_ms: longest, draw_ms: draws };
}"""
HOVER = """async (count) => {
  const big = document.querySelector(".picture.big"), box = big.getBoundingClientRect(), hover = [], shown = [];
  for (let n = 0; n < count; n++) {
    const event = new PointerEvent("pointermove", { bubbles: true,
      clientX: box.left + box.width * ((n * 0.381966) % 1), clientY: box.top + box.height * ((n * 0.618034) % 1) });
    const start = performance.now();
    big.dispatchEvent(event);
    hover.push(performance.now() - start);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    shown.push(performance.now() - start);
  }
  return { hover, shown };
}"""
RENDERER = """() => { const gl = document.querySelector(".points").getContext("webgl2"); if (!gl) return "canvas 2d";
  const info = gl.getExtension("WEBGL_debug_renderer_info"); return info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : "WebGL2"; }"""


class MadeUp:
    """Answers to what the page asks, for N points in clusters."""

    def __init__(self, points: int) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, CLASSES, points).astype(np.int32)
        centres = rng.normal(size=(CLASSES, 2)) * 0.4
        places = np.clip(centres[labels] + 0.1 * rng.normal(size=(points, 2)), -1, 1).astype("<f4")
        patches = rng.normal(size=(SIDE, SIDE, WIDTH))
        self.patches = (patches / np.linalg.norm(patches, axis=-1, keepdims=True)).astype("<f2")
        names = [f"photo_{number:07d}.jpg" for number in range(points)]
        encoder = {
            "name": "made up",
            "step": None,
            "patches": True,
            "attention": False,
            "heads": 0,
            "prototypes": False,
        }
        column = {"id": "label", "title": "label", "kind": "category", "values": [f"class {n}" for n in range(CLASSES)]}
        self.json: dict[str, Any] = {
            "about.json": {"title": "made up", "count": points, "encoders": [encoder], "first": 0, "second": None, "columns": [column],
                           "projections": ["pca"], "findings": False, "video": False, "exported": False, "version": ""},
            "images.json": {"locations": [f"/photos/{name}" for name in names], "names": names, "group": []},
        }  # fmt: skip
        self.arrays = {"columns/label": labels, "maps/0/pca": places}

    def answer(self, path: str) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of an address below api/."""
        if path.startswith("detail/"):
            near = [{"image": n + 1, "similarity": 0.9} for n in range(NEIGHBOURS)]
            facts = dict.fromkeys(("label", "prediction", "date", "group", "width", "height"))
            return json.dumps(
                {"name": "photo", "location": "", "neighbours": near, "prototypes": [], **facts}
            ).encode(), {}
        if path in self.json:
            return json.dumps(self.json[path]).encode(), {}
        array = self.patches if path.startswith("patches/") else self.arrays[path]
        return array.tobytes(), {"X-Shape": ",".join(map(str, array.shape))}

    def serve(self) -> ThreadingHTTPServer:
        data = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0].lstrip("/")
                try:
                    if path.startswith("api/"):
                        body, headers = data.answer(path.removeprefix("api/"))
                    else:
                        file = STATIC / (path.removeprefix("static/") or "index.html")
                        body, headers = file.read_bytes(), {"Content-Type": mimetypes.guess_type(file)[0] or ""}
                except (KeyError, OSError):
                    self.send_error(404)
                    return
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def measure(page: Page, points: int, query: str) -> dict[str, Any]:
    server = MadeUp(points).serve()
    start = time.perf_counter()
    page.goto(f"http://127.0.0.1:{server.server_port}/{query}")
    page.wait_for_selector("body[data-ready]", state="attached", timeout=120_000)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    result: dict[str, Any] = {
        "points": points,
        "first_map_s": time.perf_counter() - start,
        **page.evaluate(MOVE, SECONDS),
    }
    page.evaluate("() => Explorer.open(0)")
    page.wait_for_function("() => Explorer.panels[0].painting.overlays.length === 9")
    page.evaluate(HOVER, 20)  # compiles the inner loop
    times = page.evaluate(HOVER, 120)
    measured = (("draw_ms", result["draw_ms"]), ("hover_ms", times["hover"]), ("hover_to_frame_ms", times["shown"]))
    for name, values in measured:
        result[name] = {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95))}
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    buffers = usage.get("backingStorageSize", 0)  # of typed arrays, such as the features of patches
    result["memory_mb"] = round((usage["usedSize"] + buffers) / 1e6, 1)
    result["drawn_by"] = page.evaluate(RENDERER)
    server.shutdown()
    return result


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args.add_argument("--canvas", choices=("auto", "webgl2", "2d"), default="auto")
    args.add_argument("--chromium", default="/usr/bin/chromium")
    args.add_argument("--out", type=Path, default=Path("docs/results/explore.json"))
    options = args.parse_args()
    rows = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        for points in options.points:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            rows.append(measure(page, points, "" if options.canvas == "auto" else f"?canvas={options.canvas}"))
            page.close()
            print(json.dumps(rows[-1]), flush=True)
        version = browser.version
        browser.close()
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    known.setdefault("page", {})[options.canvas] = {
        "note": f"headless Chromium {version}, 1280 x 900, on {os.cpu_count()} CPU cores that other work uses, too; see load_average",
        "load_average": os.getloadavg()[0], "environment": environment(), "rows": rows,
    }  # fmt: skip
    options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
