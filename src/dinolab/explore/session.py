"""What the page can ask for: images, encoders, maps, columns and findings, in one place. N images."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dinolab.errors import UserError
from dinolab.explore.collection import Collection, open_collection
from dinolab.explore.columns import Column, columns_of, voted
from dinolab.explore.findings import Reviews, read_findings
from dinolab.explore.later import Busy, Later, Report
from dinolab.explore.looker import Looker, Named, named_encoders
from dinolab.explore.options import ExploreOptions
from dinolab.explore.pictures import Image, Pictures
from dinolab.explore.survey import VOTERS, Survey, changes

STATIC = Path(__file__).parent / "static"  # the page
CHANGED = 200  # images that are listed because their neighbours have changed


class Session:
    """Everything that is looked at.

    Args:
        models: one or two words that `dinolab.load` takes.
        options: see there.
    """

    def __init__(self, models: Sequence[str], options: ExploreOptions) -> None:
        self.options = options
        whole = open_collection(options)
        self.encoders, chosen = listed(models)
        self.compared = chosen  # the numbers of one or two encoders
        self.first, self.second = chosen[0], (chosen[1] if len(chosen) > 1 else None)
        folder = folder_of(whole, options)
        first = Survey(self.encoders[self.first].word, whole, options, folder)
        self.surveys = [
            first if n == self.first else Survey(one.word, whole, options, folder, first)
            for n, one in enumerate(self.encoders)
        ]
        for number in chosen:
            self.surveys[number].features.wait()
        assert first.rows is not None
        self.images = whole.part(first.rows)
        self.pictures = Pictures(self.images, folder and folder / fingerprint(self.images))
        self.lookers = [Looker(survey, self.pictures) for survey in self.surveys]
        self.columns = {column.id: column for column in [*columns_of(self.images), *self.columns_by_encoder()]}
        self.changes = Later(self.make_changes, "images whose neighbours have changed")
        self.reviews = Reviews(self.images, folder)

    def columns_by_encoder(self) -> list[Column]:
        """Those that follow from the first encoder; its name stands in their titles where there are two."""
        survey = self.surveys[self.first]
        by = "" if self.second is None else f" ({self.encoders[self.first].name})"
        found = [Column("cluster", f"cluster{by}", "category", survey.clusters.get, [])]
        if self.images.source.labels is not None:
            classes = self.images.source.classes
            title = f"prediction by neighbours{by}"
            found.append(Column("prediction", title, "category", survey.predicted.get, classes))
        for layer in survey.layers:
            read, title = survey.by_layer[layer.name].get, f"prediction by {layer.name}{by}"
            found.append(Column(f"layer-{layer.name}", title, "category", read, layer.classes))
        if survey.head:
            found.append(
                Column("prototype", f"prototype{by}", "category", lambda: survey.assigned.get().best[:, 0], [])
            )
        return found

    def about(self) -> dict[str, Any]:
        """about.json."""
        facts = {self.encoders[n].model: self.lookers[n].facts for n in (self.first, self.second) if n is not None}
        return {
            "title": self.images.source.name,
            "count": len(self.images),
            "encoders": [{"name": one.name, "step": one.step, **facts[one.model]} for one in self.encoders],
            "first": self.first,
            "second": self.second,
            "columns": [column.about() for column in self.columns.values()],
            "projections": ["pca", "umap"],
            "findings": bool(self.findings),
            "video": bool((self.images.groups >= 0).any()),
            "exported": False,
            "version": version("dinolab"),
        }

    def listing(self) -> dict[str, Any]:
        """images.json."""
        images = self.images
        return {"locations": images.locations, "names": images.names, "group": images.groups.tolist()}

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        """findings.json."""
        return read_findings(self.images)

    def make_changes(self, report: Report) -> list[dict[str, Any]]:
        """changes.json."""
        if self.second is None:
            return []
        one, two = (self.surveys[n].graph.wait() for n in (self.first, self.second))
        return [{"image": image, "overlap": round(share, 4)} for image, share in changes(one, two, CHANGED)]

    def detail(self, number: int, image: Image) -> dict[str, Any]:
        """What is known of an image, and the images that are like it."""
        picture = self.pictures.read(image)
        own = image if isinstance(image, int) else None
        similarities, near = self.surveys[number].neighbours(self.lookers[number].class_token(image), own)
        source, prediction = self.images.source, None
        if source.labels is not None and len(near):
            most = voted(similarities[None, :VOTERS], near[None, :VOTERS], source.labels, len(source.classes))[0]
            prediction = source.classes[most] if most >= 0 else None
        pairs = zip(near.tolist(), similarities.tolist())
        return {
            **self.facts_of(image),
            "prediction": prediction,
            "layers": self.by_layers(number, own),
            "height": picture.shape[0],
            "width": picture.shape[1],
            "prototypes": self.prototypes_of(number, own),
            "neighbours": [{"image": one, "similarity": round(value, 4)} for one, value in pairs],
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

    def by_layers(self, number: int, image: int | None) -> dict[str, str]:
        """The classes that trained layers predict for an image, by the names of those that have been asked for all images."""
        survey, found = self.surveys[number], {}
        for layer in survey.layers if image is not None else []:
            for predicted in survey.by_layer[layer.name].found:
                found[layer.name] = layer.classes[predicted[image]] if predicted[image] >= 0 else ""
        return found

    def prototypes_of(self, number: int, image: int | None) -> list[dict[str, Any]] | None:
        """The prototypes of an image of the source, and other images of each; None while they are computed."""
        survey = self.surveys[number]
        if image is None or not survey.head:
            return []
        try:
            found = survey.assigned.get()
        except Busy:
            return None
        pairs = zip(found.best[image].tolist(), found.probability[image].tolist())
        return [
            {"prototype": best, "probability": round(share, 4), "images": found.images[best]}
            for best, share in pairs
            if best >= 0
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
