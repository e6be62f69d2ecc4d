"""Predictions for all images by the linear layers that `dinolab eval` has trained on a run. N images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dinolab.data.types import Source
from dinolab.explore.options import ExploreOptions
from dinolab.features.cache import checksum
from dinolab.rundir import LAYER, RunFolder


@dataclass(frozen=True)
class Layer:
    """A trained layer that fits an encoder."""

    name: str  # the folder of the evaluation, such as linear
    file: Path
    classes: list[str]

    def predict(self, network: Any, source: Source, options: ExploreOptions) -> np.ndarray:
        """The class of each image, int64 (N,); -1 for those that cannot be read. Features in the cache are not computed again."""
        from dinolab.evals.predict import PredictOptions, run_predict  # here: evaluations take a second to import

        chosen = PredictOptions(out="", device=options.device, workers=options.workers, cache=options.cache)
        found = run_predict(self.file, source, chosen, network)
        classes = np.full(len(source), -1)
        classes[found.kept] = found.probabilities.argmax(1)
        return classes


def layers_of(word: str, network: Any) -> list[Layer]:
    """The layers below RUN/eval that were trained on this network's weights; none of an encoder that is no run."""
    found, own = [], None
    for file in sorted(RunFolder(Path(word)).evaluations.glob(f"*/{LAYER}")):
        try:
            with safe_open(file, "pt") as opened:
                facts = json.loads(opened.metadata()["layer"])
            classes, weights = [str(name) for name in facts["classes"]], facts["encoder"]["weights_crc32"]
        except (OSError, SafetensorError, LookupError, TypeError, ValueError):
            continue  # a damaged layer predicts nothing
        own = own or checksum(network.state_dict(), {})
        if weights == own:
            found.append(Layer(file.parent.name, file, classes))
    return found
