"""An evaluation that the package does not know: the error of the nearest class mean, where lower is better."""

from dataclasses import dataclass
from typing import Any

import torch

from dinolab.evals.contract import Context, Evaluation, Figure
from dinolab.evals.labelled_images import LabelledImages, describe
from dinolab.evals.result import Measured, Result
from dinolab.fields import option


class NearestMean(Evaluation):
    title = "nearest class mean"
    about = "The class whose mean feature is nearest."
    needs = LabelledImages
    FIGURES = (Figure("error", "error", higher_is_better=False), Figure("distance", "mean distance", unit="px"))

    @dataclass
    class Options(LabelledImages.Options):
        power: float = option(2.0, "exponent of the distance", 0.1, 10)

    def run(self, encoder: Any, data: LabelledImages, options: Any, context: Context) -> Result:
        sides = data.sides(encoder, options.seed)
        train, labels = sides.train_features.matrix(), sides.train_features.labels
        means = torch.stack([train[labels == c].mean(0) for c in range(len(sides.train.classes))])
        distances = torch.cdist(sides.test_features.matrix(), means, p=options.power)
        error = (distances.argmin(1) != sides.test_features.labels).float().mean().item()
        figures = {"error": Measured(error), "distance": Measured(distances.min(1).values.mean().item())}
        return context.result({"power": options.power}, data=describe(sides), figures=figures)


TOY = NearestMean()
