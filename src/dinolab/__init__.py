"""dinolab: self-supervised vision (DINO, DINOv2) on your own images.

dinolab.train("dinov2_vits8", "data.path=DIR", "run.dir=runs/mine")
model = dinolab.load("runs/mine")
features = model(images)  # uint8 or floats in [0, 1], (B, 3, H, W) -> features.cls (B, D), features.patches (B, h, w, D)
dinolab.evaluate("knn", model, "TRAIN_DIR", "TEST_DIR").main.value
dinolab.load_layer("runs/mine/eval/linear").predict(model, images)  # probabilities (B, classes)
dinolab.predict("runs/mine", "DIR").labels  # by the same layer, the class of each image
dinolab.compare("runs/mine", ["pixels", "untrained"], "TRAIN_DIR", "TEST_DIR", out="runs/compared")
dinolab.embed(model, "DIR")["cls"]
dinolab.curate.dedup("sets/heap")["kept"]  # dinolab.curate has a function for each command of `dinolab curate`
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dinolab.errors import UserError

if TYPE_CHECKING:
    from dinolab import curate
    from dinolab.evals.compare import compare
    from dinolab.evals.evaluate import evaluate
    from dinolab.evals.layer import load_layer
    from dinolab.evals.predict import predict
    from dinolab.features.embed import embed
    from dinolab.runs.train import train
    from dinolab.weights.load import load

__all__ = ["UserError", "compare", "curate", "embed", "evaluate", "load", "load_layer", "predict", "train"]

HOMES = {
    "compare": "dinolab.evals.compare",
    "embed": "dinolab.features.embed",
    "evaluate": "dinolab.evals.evaluate",
    "load": "dinolab.weights.load",
    "load_layer": "dinolab.evals.layer",
    "predict": "dinolab.evals.predict",
    "train": "dinolab.runs.train",
}


def __getattr__(name: str) -> Any:  # torch is imported when it is needed, so that --help answers at once
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name == "curate":
        return import_module("dinolab.curate")
    if name == "__version__":
        return version("dinolab")
    raise AttributeError(f"module 'dinolab' has no attribute {name!r}")
