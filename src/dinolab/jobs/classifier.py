"""The demo video's classifier and its images."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dinolab.data import draws
from dinolab.data.decode import BrokenImage, read_image
from dinolab.data.sources import open_source
from dinolab.evals import logreg
from dinolab.jobs.job import Job
from dinolab.jobs.split import SEED


def classifier(job: Job, encoder: Any) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """Logistic regression on the train images: a function from class tokens (n, D) to probabilities (n, C), and the classes."""
    source = open_source(str(job.split.train), need_labels=True)
    return logreg.classifier(encoder, source, encoder.image_size, **job.features()), source.classes


def clip_of(test: Path, each: int) -> dict[str, str]:
    """Path and label of `each` readable test images of every class, with the classes in turn."""
    source = open_source(str(test), need_labels=True)
    chosen = []
    for label, name in enumerate(source.classes):
        drawn = draws.rng(SEED, draws.SUBSET, label).permutation(np.flatnonzero(source.labels == label))
        readable = (source.paths[n] for n in drawn if can_be_read(source.paths[n]))
        chosen += [(turn, label, path, name) for turn, path in enumerate(islice(readable, each))]
    return {path: name for _, _, path, name in sorted(chosen)}


def can_be_read(path: str) -> bool:
    try:
        read_image(path)
    except BrokenImage:
        return False
    return True
