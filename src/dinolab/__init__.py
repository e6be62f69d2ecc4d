"""dinolab: self-supervised vision (DINO, DINOv2) on your own images.

dinolab.train("dinov2_vits8", "data.path=DIR", "run.dir=runs/mine")
model = dinolab.load("runs/mine")
features = model(images)  # uint8 or floats in [0, 1], (B, 3, H, W) -> features.cls (B, D), features.patches (B, h, w, D)
dinolab.evaluate("knn", model, "TRAIN_DIR", "TEST_DIR")["accuracy"]
dinolab.embed(model, "DIR")["cls"]
"""

from typing import TYPE_CHECKING, Any

from dinolab.errors import UserError

if TYPE_CHECKING:
    from dinolab.evals.evaluate import embed, evaluate
    from dinolab.models.weights import load
    from dinolab.pretrain import train

__all__ = ["UserError", "embed", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:  # torch is imported when it is needed, so that --help answers at once
    if name == "train":
        from dinolab.pretrain import train

        return train
    if name == "load":
        from dinolab.models.weights import load

        return load
    if name in ("embed", "evaluate"):
        from dinolab.evals import evaluate

        return getattr(evaluate, name)
    raise AttributeError(f"module 'dinolab' has no attribute {name!r}")
