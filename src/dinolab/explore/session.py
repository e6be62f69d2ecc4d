"""What the page can ask for: images, encoders, maps, columns and findings, in one place. N images."""

import hashlib
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.errors import UserError
from dinolab.explore.collection import Collection, open_collection
from dinolab.explore.columns import columns_of, voted
from dinolab.explore.later import Later, Report
from dinolab.explore.looker import Looker, Named, named_encoders
from dinolab.explore.maps import aligned, kept, pca_map
from dinolab.explore.options import ExploreOptions
from dinolab.explore.pictures import Image, Pictures

NEIGHBOURS, VOTERS = 24, 20  # of an image; those whose labels predict its own


class Session:
    """Everything that is looked at.

    Args:
        models: one or two words that `dinolab.load` takes.
        options: see there.
    """

    def __init__(self, models: Sequence[str], options: ExploreOptions) -> None:
        self.options = options
        whole = open_collection(options)
        encoders, chosen = listed(models)
        first = Looker(encoders[chosen[0]], whole, options)
        first.features.wait()
        assert first.rows is not None
        self.images = whole.part(first.rows)
        self.folder = folder_of(whole, options)
        self.pictures = Pictures(self.images, self.folder and self.folder / fingerprint(self.images))
        self.lookers = [
            first if n == chosen[0] else Looker(one, whole, options, first.rows) for n, one in enumerate(encoders)
        ]
        for looker in self.lookers:
            looker.pictures = self.pictures
        self.first, self.second = chosen[0], (chosen[1] if len(chosen) > 1 else None)
        if self.second is not None:
            self.lookers[self.second].features.wait()
        self.columns = {column.id: column for column in columns_of(self.images)}
        self.pca = [Later(partial(self.make_pca, n), "principal components") for n in range(len(encoders))]

    def about(self) -> dict[str, Any]:
        """about.json."""
        kinds = [self.lookers[self.first].facts] * len(self.lookers)
        if self.second is not None:
            family = self.lookers[self.second].named.model
            kinds = [
                self.lookers[self.second].facts if one.named.model == family else kind
                for one, kind in zip(self.lookers, kinds)
            ]
        return {
            "title": self.images.source.name,
            "count": len(self.images),
            "encoders": [
                {"name": one.named.name, "step": one.named.step, **kind} for one, kind in zip(self.lookers, kinds)
            ],
            "first": self.first,
            "second": self.second,
            "columns": [column.about() for column in self.columns.values()],
            "projections": ["pca", "umap"],
            "findings": False,
            "video": bool((self.images.groups >= 0).any()),
            "exported": False,
            "version": version("dinolab"),
        }

    def listing(self) -> dict[str, Any]:
        """images.json."""
        images = self.images
        return {"locations": images.locations, "names": images.names, "group": images.groups.tolist()}

    def make_pca(self, number: int, report: Report) -> np.ndarray:
        looker = self.lookers[number]
        file = self.file(f"{looker.key.wait()}.pca.safetensors")
        points = kept(file, lambda: {"points": pca_map(looker.features.wait().unit)})["points"]
        if number != self.first:
            points = aligned(points, torch.from_numpy(self.pca[self.first].wait()))
        return points.numpy()

    def file(self, name: str) -> Path | None:
        """A file of this name that is kept for the next time; None where nothing is kept."""
        return self.folder and self.folder / name

    def neighbours(self, number: int, image: Image, count: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
        """Similarities float32 (k,), greatest first, and numbers int64 (k,) of the nearest images; an image itself is left out."""
        looker = self.lookers[number]
        similarity = looker.features.wait().unit @ looker.class_token(image)
        if isinstance(image, int):
            similarity[image] = -torch.inf
        found = similarity.topk(min(count, len(similarity) - isinstance(image, int)))
        return found.values, found.indices

    def detail(self, number: int, image: Image) -> dict[str, Any]:
        """What is known of an image, and the images that are like it."""
        picture = self.pictures.read(image)
        similarities, near = self.neighbours(number, image)
        labels = self.images.source.labels
        prediction = None
        if labels is not None and len(near):
            votes = voted(similarities[None, :VOTERS], near[None, :VOTERS], labels, len(self.images.source.classes))
            prediction = self.images.source.classes[votes[0]] if votes[0] >= 0 else None
        own = self.facts_of(image)
        return {
            **own,
            "prediction": prediction,
            "height": picture.shape[0],
            "width": picture.shape[1],
            "prototypes": self.prototypes_of(number, image),
            "neighbours": [
                {"image": one, "similarity": round(value, 4)}
                for one, value in zip(near.tolist(), similarities.tolist())
            ],
        }

    def facts_of(self, image: Image) -> dict[str, Any]:
        """Name, location, label, date and the frames beside an image."""
        if not isinstance(image, int):
            return {"name": image, "location": "", "label": None, "date": None, "group": None}
        images, labels = self.images, self.images.source.labels
        date = float(images.dates[image])
        return {
            "name": images.names[image],
            "location": images.locations[image],
            "label": images.source.classes[labels[image]] if labels is not None and labels[image] >= 0 else None,
            "date": date if np.isfinite(date) else None,
            "group": images.beside(image),
        }

    def prototypes_of(self, number: int, image: Image) -> list[dict[str, Any]]:
        """The prototypes of an image of the source, and other images of each."""
        looker = self.lookers[number]
        found = looker.assigned.wait() if isinstance(image, int) and looker.prototypes else None
        if found is None:
            return []
        return [
            {"prototype": best, "probability": round(share, 4), "images": found.images[best]}
            for best, share in zip(found.best[image].tolist(), found.probability[image].tolist())
        ]


def listed(models: Sequence[str]) -> tuple[list[Named], list[int]]:
    """All encoders, and the places of those that were named among them."""
    if not 1 <= len(models) <= 2:
        raise UserError(f"{len(models)} encoders: name one, or two to compare them")
    encoders: list[Named] = []
    chosen = []
    for model in models:
        encoders += named_encoders(model)
        chosen.append(len(encoders) - 1)
    return encoders, chosen


def folder_of(images: Collection, options: ExploreOptions) -> Path | None:
    """Where maps and thumbnails are kept: in a curated set, or beside the features."""
    if images.store:
        return images.store.folder / "explore"
    return None if options.cache == "none" else Path(options.cache).expanduser().parent / "explore"


def fingerprint(images: Collection) -> str:
    """A name that changes with the images and their dates."""
    digest = hashlib.blake2b("\n".join(images.source.paths).encode(errors="surrogateescape"), digest_size=16)
    digest.update(images.dates.tobytes())
    return digest.hexdigest()
