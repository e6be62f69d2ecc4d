"""How long does the explorer take until the first map, how much memory does its server hold, how quick are its answers?

    python benchmarks/explore.py PHOTOS [--images 10000] [--out docs/results/explore.json]

PHOTOS is a folder of photographs, which are linked as often as it takes; the links are removed at the end. The encoder is a ViT-S/16 with
random weights, and random features of all images are put into the cache: neither changes how long anything takes. The server is that of
`dinolab explore`, in a process of its own, and its answers are timed from outside, one request at a time. The page has a benchmark of its
own, benchmarks/explore_page.py.

`first_map_s` is the time from the command until a headless Chromium, which runs already, has drawn the map by principal components; of
it `serving_s` goes by until the server answers; `cpu_s_until_first_map` is what the server has computed by then, which other work on the
machine hardly lengthens. At the first of two starts no map is kept (`kept_map` false), at the second one it is.

Times of answers are in milliseconds, over images drawn at random; `first` is the median of images that nobody has asked for before,
`again` that of the same ones once more.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from playwright.sync_api import sync_playwright

from dinolab.data.addresses import IMAGES
from dinolab.data.sources import open_source
from dinolab.features import cache
from dinolab.features.views import View
from dinolab.machine import environment
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import load, save_encoder

SIDE, PATCHES_ASKED, DETAILS_ASKED = 224, 4, 40


def make(folder: Path, photos: Path, images: int) -> None:
    """Links to photographs in 20 classes, an encoder, and features in a cache."""
    found = sorted(file for file in photos.rglob("*") if file.suffix.lower() in IMAGES)
    for n in range(images):
        place = folder / "images" / f"class{n % 20:02d}" / f"{n:06d}{found[n % len(found)].suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(found[n % len(found)].resolve())
    save_encoder(ViT(Model(size="small", patch_size=16), SIDE), folder / "model", {})
    encoder, source = load(folder / "model"), open_source(str(folder / "images"))
    centres = torch.randn(20, encoder.dim)
    tensors = {
        "block00": centres[torch.as_tensor(source.labels)] + torch.randn(images, encoder.dim),
        "patches": torch.zeros(images, encoder.dim),
        "kept": torch.arange(images),
        "digests": torch.zeros(images, 16, dtype=torch.uint8),
    }
    key = cache.key(encoder, source, f"{View((SIDE, SIDE)).key()}, fp32")
    cache.write(folder / "cache" / "features" / f"{key}.safetensors", tensors, {"broken": "[]", "asked": "[1, false]"})


def milliseconds(ask: Callable[[int], Any], images: list[int]) -> dict[str, float]:
    """Medians of the times of asking for each image, first and again."""
    found = {}
    for name in ("first", "again"):
        times = []
        for image in images:
            start = time.perf_counter()
            ask(image)
            times.append(1000 * (time.perf_counter() - start))
        found[name] = round(float(np.median(times)), 1)
    return found


def cpu_seconds(process: int) -> float:
    """Of all threads of a process, in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Served:
    """`dinolab explore` in a process of its own; use it in a `with` block.

    Attributes:
        start: when the command began.
        address: what it has printed, with the token.
        serving_s: seconds until it has printed it.
    """

    def __init__(self, folder: Path) -> None:
        words = [
            sys.executable, "-m", "dinolab", "explore", str(folder / "model"), f"data={folder / 'images'}", "open=false",
            f"cache={folder / 'cache' / 'features'}", "precision=fp32", "device=cpu",
        ]  # fmt: skip
        self.start = time.perf_counter()
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.serving_s = time.perf_counter() - self.start
        found = re.search(r"http://\S+", line)
        assert found, line
        self.address = found[0]

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def first_map(folder: Path, chromium: str) -> dict[str, float]:
    """Seconds from the command until a browser, which runs already, has drawn the map."""
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        with Served(folder) as served:
            page.goto(served.address)
            page.wait_for_selector("body[data-ready]", state="attached", timeout=120_000)
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            found = {
                "serving_s": round(served.serving_s, 2),
                "first_map_s": round(time.perf_counter() - served.start, 2),
                "cpu_s_until_first_map": round(cpu_seconds(served.process.pid), 2),
            }
        browser.close()
    return found


def answers(folder: Path, images: int) -> dict[str, Any]:
    """Times of answers, and the memory that the server holds."""
    with Served(folder) as served:
        client = httpx.Client(base_url=served.address.partition("?")[0], timeout=600)
        client.get(served.address, follow_redirects=True)

        def ask(path: str) -> httpx.Response:
            while True:
                answer = client.get(f"/api/{path}")
                if answer.status_code != 202:
                    return answer.raise_for_status()
                time.sleep(0.05)

        for path in ("about.json", "images.json", "columns/label", "maps/0/pca"):
            ask(path)
        found: dict[str, Any] = {"memory_mb_at_first_map": round(ask("health.json").json()["memory_bytes"] / 1e6)}
        drawn = np.random.default_rng(0).choice(images, DETAILS_ASKED, replace=False).tolist()
        found["detail_ms"] = milliseconds(lambda n: ask(f"detail/0/{n}"), drawn)
        found["small_image_ms"] = milliseconds(lambda n: ask(f"images/{n}?side=96"), drawn)
        found["thumbnails_256_ms"] = milliseconds(lambda n: ask(f"atlas/{n}"), [0, 1, 2])
        found["patches_ms"] = milliseconds(lambda n: ask(f"patches/0/{n}"), drawn[:PATCHES_ASKED])
        found["patches_shape"] = ask(f"patches/0/{drawn[0]}").headers["X-Shape"]
        found["memory_mb"] = round(ask("health.json").json()["memory_bytes"] / 1e6)
    return found


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("photos", type=Path)
    args.add_argument("--images", type=int, default=10_000)
    args.add_argument("--chromium", default="/usr/bin/chromium")
    args.add_argument("--out", type=Path, default=Path("docs/results/explore.json"))
    options = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.photos, options.images)
        starts = [{"kept_map": kept, **first_map(Path(folder), options.chromium)} for kept in (False, True)]
        found = {"images": options.images, "starts": starts, **answers(Path(folder), options.images)}
    print(json.dumps(found, indent=1))
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    known["server"] = {
        **found,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "environment": environment(),
    }
    options.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
