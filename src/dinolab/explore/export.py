"""The explorer as a folder that needs no server: a sample of images, small enough to pass on. N images, D features of a patch.

    OUT/index.html, OUT/static/   the page
    OUT/data.js                   all answers of the server, by their addresses
    OUT/images/12.jpg             the images

Patch features are projected onto as many directions as fit, those of the largest singular values over all patches, so that products of
patches stay as near as possible to their cosine similarities.
"""

import base64
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.explore.options import ExploreOptions
from dinolab.explore.pictures import CELLS
from dinolab.explore.session import STATIC, Session
from dinolab.files import write_whole
from dinolab.progress import track

SIDE = 512  # pixels of the longer side of an image
TRIED, LEARNED = 8, 32  # images by which sizes are estimated, and from whose patches the directions are learned
FEWEST = 16  # directions of patch features for which room is left before more images are taken
TEXT = 4 / 3  # bytes of base64 for each byte
MARK = "<!-- exported -->"  # in index.html


def export(models: Sequence[str], options: ExploreOptions, progress: bool) -> str:
    """Write the page; returns what was written, in words.

    Raises:
        UserError: the folder holds other things, or not even one image fits into the size.
    """
    out = Path(options.export)
    if out.is_dir() and any(out.iterdir()) and not (out / "data.js").is_file():
        raise UserError(f"export={out}: holds other files; name a new folder")
    session = Session(models, options)
    room = int(options.megabytes * 1e6) - sum(file.stat().st_size for file in STATIC.iterdir())
    fits = how_many(session, room)
    if fits < 1:
        raise UserError(f"megabytes={options.megabytes:g}: not one image fits; allow more")
    if fits < len(session.images):
        session = Session(models, replace(options, sample=fits))
    page = Page(session, out, room)
    page.write(progress)
    return f"{out / 'index.html'}: {len(session.images):,} images, {page.written / 1e6:.1f} MB; {page.words()}"


def how_many(session: Session, room: int) -> int:
    """How many of the images fit, by the sizes of a few of them."""
    tried = spread(len(session.images), TRIED)
    most = 0
    for image in tried:
        size = len(session.pictures.jpeg(image, SIDE))
        for number in session.compared:
            answers = dict(of_image(session, number, image))
            patches = answers.pop("patches", None)
            size += len(json.dumps({name: packed(answer) for name, answer in answers.items()}))
            size += int(patches.size / patches.shape[-1] * FEWEST * 2 * TEXT) if patches is not None else 0
        most += size
    return min(len(session.images), int(0.95 * room / (most / len(tried))))


def spread(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def of_image(session: Session, number: int, image: int) -> Iterator[tuple[str, Any]]:
    """What an encoder says about an image, by the names of the addresses."""
    looker, facts = session.lookers[number], session.lookers[number].facts
    if facts["patches"]:
        yield "patches", looker.patches(image)
        yield "pca", looker.pca(image)
    if facts["attention"]:
        yield "attention", looker.attention(image)
        yield "mask", looker.mask(image)


def packed(answer: Any) -> Any:
    """An answer as data.js has it: arrays and files in base64."""
    if isinstance(answer, np.ndarray):
        data = np.ascontiguousarray(answer, answer.dtype.newbyteorder("<")).tobytes()
        return {"shape": list(answer.shape), "data": base64.b64encode(data).decode()}
    return base64.b64encode(answer).decode() if isinstance(answer, bytes) else answer


class Page:
    """The files of an exported page.

    Args:
        session: the images and encoders.
        out: the folder.
        room: bytes that images and answers may take.
    """

    def __init__(self, session: Session, out: Path, room: int) -> None:
        self.session, self.out, self.room = session, out, room
        self.answers: dict[str, Any] = {}
        self.patches: dict[str, Tensor] = {}  # float16 (h, w, directions), by their addresses
        self.written = 0
        self.kept: list[str] = []

    def write(self, progress: bool) -> None:
        """Write all files, data.js last."""
        for folder in (self.out / "images", self.out / "static"):
            shutil.rmtree(folder, ignore_errors=True)
        (self.out / "images").mkdir(parents=True)
        shutil.copytree(STATIC, self.out / "static", ignore=shutil.ignore_patterns("index.html"))
        self.answer_all(progress)
        self.add_patches()
        text = f"window.EXPORTED = {json.dumps(self.answers, separators=(',', ':'))};\n"
        index = (STATIC / "index.html").read_text(encoding="utf-8")
        write_whole(self.out / "index.html", index.replace(MARK, '<script defer src="data.js"></script>').encode())
        write_whole(self.out / "data.js", text.encode())
        self.written = sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file())

    def answer_all(self, progress: bool) -> None:
        """Everything but the patches."""
        session, count = self.session, len(self.session.images)
        bases = {number: self.learn(number) for number in session.compared}
        for image in track(range(count), "images", count, progress):
            write_whole(self.out / "images" / f"{image}.jpg", session.pictures.jpeg(image, SIDE))
            for place, number in enumerate(session.compared):
                for name, answer in of_image(session, number, image):
                    if name == "patches":
                        self.patches[f"api/patches/{place}/{image}"] = torch.from_numpy(answer) @ bases[number].half()
                    else:
                        self.answers[f"api/{name}/{place}/{image}"] = packed(answer)
        session.surveys[session.first].settle()
        for place, number in enumerate(session.compared):
            survey = session.surveys[number]
            if survey.head:
                survey.assigned.wait()
            for image, location in enumerate(session.images.short):
                self.answers[f"api/detail/{place}/{image}"] = session.detail(number, image) | {"location": location}
            self.answers[f"api/maps/{place}/pca"] = packed(survey.pca.wait())
            self.answers[f"api/maps/{place}/umap"] = packed(survey.umap.wait())
        self.answers |= {f"api/columns/{name}": packed(one.array()) for name, one in session.columns.items()}
        pages = range(-(-count // CELLS**2))
        self.answers |= {f"api/atlas/{page}": packed(session.pictures.atlas(page)) for page in pages}
        self.answers["api/changes.json"] = session.changes.wait()
        self.answers["api/findings.json"] = session.findings
        self.answers["api/about.json"] = exported(session)
        self.answers["api/images.json"] = session.listing() | {"locations": session.images.short}

    def learn(self, number: int) -> Tensor:
        """The directions that hold most of the patches of an encoder, float32 (D, directions), the most important first."""
        looker = self.session.lookers[number]
        if not looker.facts["patches"]:
            return torch.empty(0, 0)
        patches = [torch.from_numpy(looker.patches(n)).float() for n in spread(len(self.session.images), LEARNED)]
        gram = sum((one.flatten(0, 1).T @ one.flatten(0, 1) for one in patches), torch.zeros(()))
        return torch.linalg.eigh(gram.double()).eigenvectors.flip(1).float()

    def add_patches(self) -> None:
        """Patches in as many directions as there is room for."""
        if not self.patches:
            return
        taken = sum(file.stat().st_size for file in (self.out / "images").iterdir()) + len(json.dumps(self.answers))
        names = sum(len(name) + 60 for name in self.patches)
        each = sum(one.shape[0] * one.shape[1] for one in self.patches.values()) * 2 * TEXT
        most = int((self.room - taken - names) / each)
        if most < 1:
            raise UserError("megabytes=: the images leave no room for their patches; allow more, or a smaller sample=")
        for place, _ in enumerate(self.session.compared):
            mine = {name: one for name, one in self.patches.items() if name.startswith(f"api/patches/{place}/")}
            kept = [one[..., :most].float().square().sum(-1).mean() for one in mine.values()]
            if mine:
                width = next(iter(mine.values())).shape[-1]
                share = f"{float(torch.stack(kept).mean()):.1%} of their squared length"
                self.kept.append(f"patches in {min(most, width)} of {width} directions, which hold {share}")
        self.answers |= {name: packed(one[..., :most].numpy()) for name, one in self.patches.items()}

    def words(self) -> str:
        """How exact the patches are."""
        return "; ".join(self.kept) or "no patches"


def exported(session: Session) -> dict[str, Any]:
    """about.json of the page: only the encoders that are compared, and no path of this machine."""
    about = session.about()
    encoders = [about["encoders"][number] for number in session.compared]
    second = 1 if len(encoders) > 1 else None
    title = Path(about["title"]).name or about["title"]
    return {**about, "title": title, "encoders": encoders, "first": 0, "second": second, "exported": True}
