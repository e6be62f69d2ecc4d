"""The demo video's classifier and its images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dinolab.data.sources import open_source
from dinolab.evals.features import extract
from dinolab.evals.logreg import logreg
from dinolab.recipe.job import Job
from dinolab.recipe.split import few_of_each


def classifier(job: Job, encoder: Any) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """Class tokens (n, D) -> probabilities (n, C) of the classes, by logistic regression on the training images."""
    source = open_source(str(job.split.train), need_labels=True)
    how = job.features()
    features = extract(encoder, source, encoder.image_size, **how)
    labels, classes = features.labels, source.classes

    def classify(cls: Tensor) -> Tensor:
        return logreg(features.matrix(), labels, cls, len(classes), 0, job.progress, how["device"])[0]

    return classify, classes


def clip_of(test: Path, each: int) -> list[str]:
    """Test images of all classes, the classes by turns."""
    source = few_of_each(open_source(str(test), need_labels=True), each)
    assert source.labels is not None
    rank = [int((source.labels[:n] == label).sum()) for n, label in enumerate(source.labels)]  # which of its class
    return [source.paths[n] for n in np.lexsort((source.labels, np.array(rank)))]
