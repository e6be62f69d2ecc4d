"""Takes the pictures of free photos in docs/pictures again: `python -m scripts.docs.pictures [PICTURE ...]`.

It needs scikit-image, whose photos it shows, and a Chromium; without names it takes all of TAKEN, in a few minutes. `build/pictures`
keeps what was made on the way: the images, a network that is trained on them, and their features. Remove it to begin anew.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright
from scripts.docs.photos import cut_photos, photo
from tests.browsing import ARGUMENTS, CHROMIUM

from dinolab.errors import UserError

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
WORK = ROOT / "build" / "pictures"
DINOLAB = [sys.executable, "-m", "dinolab"]
IMAGES, RUN = "photos", "my_run"  # in WORK, where the commands run
SHOWN, GAP = 1200, 8  # pixels: the width of a picture, white between its rows
STRENGTH = "0.45"  # of what is painted over the pictures
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]
OPEN = """(name) => {
  const image = Explorer.state.images.locations.findIndex((one) => one.endsWith(`/${name}`));
  Explorer.open(image, { from: "start" });
}"""
READY = "() => [...document.querySelectorAll('.readout')].every((one) => one.textContent)"
SHORT = """(work) => { for (const one of document.querySelectorAll(".location")) one.textContent = one.textContent.replace(work, ""); }"""


def pca() -> None:
    shown = [rows(show(f"pca_{name}", "pca", str(photo(name)), "size=896")) for name in ("pagoda", "cat")]
    write("pca", shown)


def similarity() -> None:
    photos = [str(photo(name)) for name in ("dahlia", "cat", "coffee")]
    write("similarity", [rows(show("similarity", "similarity", *photos, "at=0.44,0.5", "size=896"))])


def explorer() -> None:
    """The front page's: a map, and a patch that is pointed at."""
    with opened(["starter", "detail=640"], 1280, 860) as page:
        look(page, "cat/17.jpg", 0.2, 0.36)
        page.screenshot(path=PICTURES / "explorer.jpg", quality=QUALITY[1], type="jpeg")


def explorer_two() -> None:
    """Two encoders, in the dark theme."""
    with opened(["starter", RUN], 1280, 1540, dark=True) as page:
        look(page, "dahlia/01.jpg", 0.5, 0.5)
        page.screenshot(path=PICTURES / "explorer_two.jpg", quality=QUALITY[1], type="jpeg")


TAKEN = {"pca": pca, "similarity": similarity, "explorer": explorer, "explorer_two": explorer_two}


def show(name: str, what: str, *words: str) -> np.ndarray:
    """The sheet that `dinolab show` draws with the starter."""
    file = WORK / f"{name}.png"
    file.unlink(missing_ok=True)
    subprocess.run([*DINOLAB, "show", what, "starter", *words, f"out={file}"], cwd=WORK, check=True)
    return cv2.imread(str(file))


def rows(sheet: np.ndarray) -> list[np.ndarray]:
    """The rows of pictures of a sheet, without its words, which cannot be read where the page shows it small."""
    written = np.flatnonzero((sheet < 250).any(axis=(1, 2)))
    bands = np.split(written, np.flatnonzero(np.diff(written) > 1) + 1)
    return [sheet[band[0] : band[-1] + 1] for band in bands if len(band) > 100]


def write(name: str, parts: list[list[np.ndarray]]) -> None:
    """Write rows of pictures below each other, scaled down."""
    shown = []
    for row in (row for part in parts for row in part):
        height = round(row.shape[0] * SHOWN / row.shape[1])
        shown += [
            cv2.resize(row, (SHOWN, height), interpolation=cv2.INTER_AREA),
            np.full((GAP, SHOWN, 3), 255, np.uint8),
        ]
    cv2.imwrite(str(PICTURES / f"{name}.jpg"), np.vstack(shown[:-1]), QUALITY)


def prepare(encoders: list[str]) -> None:
    """The images and the network, where they are not there yet."""
    if not (WORK / IMAGES).is_dir():
        cut_photos(WORK / IMAGES)
    if RUN in encoders:  # where it has ended, the same command does nothing
        words = ["distill_small", "optim.length=6 epochs", f"data.path={IMAGES}", f"run.dir={RUN}"]
        subprocess.run([*DINOLAB, "train", *words, "run.keep_every=25%"], cwd=WORK, check=True)


@contextmanager
def opened(words: list[str], width: int, height: int, dark: bool = False) -> Iterator[Page]:
    """The explorer's page with all images, and with paint that lets bright photos through."""
    prepare(words)
    command = [*DINOLAB, "explore", *words, f"data={IMAGES}", "open=false", "port=0", "cache=cache"]
    with (
        subprocess.Popen(command, cwd=WORK, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as browsers,
    ):
        try:
            assert server.stdout
            address = re.search(r"http://\S+", next(iter(server.stdout), ""))
            if not address:
                raise UserError("the explorer has not started")
            browser = browsers.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            theme = "dark" if dark else "light"
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(address[0])
            page.wait_for_selector("body[data-ready]", state="attached")
            strength = page.get_by_label("Strength")
            strength.fill(STRENGTH)
            strength.blur()
            yield page
            browser.close()
        finally:
            server.terminate()


def look(page: Page, name: str, x: float, y: float) -> None:
    """Open an image, and point at a place in it, in fractions of its width and height."""
    page.evaluate(OPEN, name)
    page.wait_for_function(READY, timeout=120_000)  # a sentence below each picture: its patches are there
    big = page.locator(".picture.big").first
    box = big.bounding_box()
    assert box
    big.hover(position={"x": x * box["width"], "y": y * box["height"]})
    page.evaluate(SHORT, f"{WORK}/")  # where this machine keeps the images is of no interest
    page.wait_for_timeout(3000)  # the neighbours' patches come later
    page.evaluate("scrollTo(0, 0)")


def main() -> int:
    names = sys.argv[1:] or list(TAKEN)
    if unknown := [name for name in names if name not in TAKEN]:
        raise SystemExit(f"there is no picture {unknown[0]}; there are {', '.join(TAKEN)}")
    WORK.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            TAKEN[name]()
        except UserError as error:
            raise SystemExit(str(error)) from error
        print(PICTURES / f"{name}.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
