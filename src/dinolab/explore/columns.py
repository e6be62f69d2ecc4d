"""What images on the map are coloured by: a category, a number or a date of each. N images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.curation.decisions import before
from dinolab.explore.collection import Collection

MINUTE = 60  # seconds; the page writes dates to the minute
TYPES = {"category": np.int32, "number": np.float32, "date": np.float64}


@dataclass(frozen=True)
class Column:
    """A value of each image.

    Args:
        kind: "category": int32, -1 where it is unknown; "number": float32; "date": float64, seconds since 1970.
        read: gives the values (N,); raises Busy while they are computed.
        values: names of the categories.
    """

    id: str
    title: str
    kind: str
    read: Callable[[], np.ndarray]
    values: list[str]

    def about(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "kind": self.kind, "values": self.values}

    def array(self) -> np.ndarray:
        return self.read().astype(TYPES[self.kind])


def columns_of(images: Collection) -> list[Column]:
    """The columns that need no encoder, but for those that would give all images one colour."""
    source, found = images.source, []
    if source.labels is not None:
        labels = source.labels
        found.append(Column("label", "label", "category", lambda: labels, source.classes))
    if images.store:
        out = ~np.isin(images.rows, before(images.store))
        if out.any():
            found.append(Column("in", "in the curated set", "category", lambda: out, ["in", "out"]))
    dates = images.dates[np.isfinite(images.dates)]
    if len(dates) and np.ptp(dates) >= MINUTE:
        found.append(Column("date", "date of the file", "date", lambda: images.dates, []))
    return found


def voted(similarities: Tensor, near: Tensor, labels: np.ndarray, classes: int) -> np.ndarray:
    """The classes that neighbours vote for, as in k-NN classification, int64 (M,); -1 where none of them has a label.

    Args:
        similarities, near: of the neighbours and their numbers, (M, k).
        labels: of all images, int64 (N,), -1 without one.
    """
    from dinolab.evals.knn import vote  # here, for the evaluations take a second to import

    of = torch.from_numpy(labels)[near]
    known = of >= 0
    votes = vote(similarities.masked_fill(~known, -torch.inf), of.clamp(min=0), classes)
    return torch.where(known.any(1), votes.nan_to_num().argmax(1), -1).numpy()
