"""The trained linear layer of an evaluation as a file, with everything that it takes to apply it to images.

B images of a batch, D features, C classes.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.evals.heads import Input, Trained
from dinolab.evals.result import Json
from dinolab.features.options import TOKENS
from dinolab.files import beside
from dinolab.rundir import LAYER
from dinolab.schemas import LAYER_FACTS, find_wrong

FORMAT = "dinolab layer 1"


class LinearLayer(nn.Module):
    """A linear layer on an encoder's features.

    Attributes:
        linear: the layer, weight (C, D) and bias (C,); the bias of a class without training images is minus infinity.
        taken: the features that it takes: of how many last blocks the class tokens, and whether with the mean of the patches.
        classes: their C names.
        size: height and width of the images in pixels; see `dinolab.data.views.eval_view` for how they are cut from photos.
        precision: of the encoder, fp32 or bf16.
        encoder: its name, dim, patch_size, info, and the CRC-32 of its weights.
    """

    def __init__(
        self, trained: Trained, classes: list[str], size: tuple[int, int], precision: str, encoder: Json
    ) -> None:
        super().__init__()
        self.linear, self.taken = trained
        self.classes, self.size, self.precision, self.encoder = classes, size, precision, encoder

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) from features float32 (B, D), as `features` gives them."""
        return self.linear(features)

    def features(self, encoder: Any, images: Tensor) -> Tensor:
        """What the layer takes, float32 (B, D), from images uint8 (B, 3, *size) on the encoder's device."""
        return self.taken.encode(encoder, images, self.precision)

    def predict(self, encoder: Any, images: Tensor) -> Tensor:
        """Probabilities of the classes, float32 (B, C); arguments as for `features`."""
        return self(self.features(encoder, images)).softmax(1)

    def save(self, folder: Path) -> None:
        """Write layer.safetensors: tensors `weight` and `bias`, and the rest as JSON in its metadata."""
        facts = {
            "classes": self.classes,
            **self.taken._asdict(),
            "size": list(self.size),
            "precision": self.precision,
            "encoder": self.encoder,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.linear.state_dict().items()}
        with beside(folder / LAYER) as place:
            save_file(tensors, place, {"format": FORMAT, "layer": json.dumps(facts, default=str)})


def load_layer(path: str | Path) -> LinearLayer:
    """The linear layer that `dinolab eval linear`, `linear-dino` or `logreg` has trained, on the CPU.

    Args:
        path: the folder with the evaluation's results, or the file layer.safetensors in it.

    Raises:
        UserError: there is no such file, or it is not one of dinolab's.
    """
    file = Path(path) / LAYER if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file; name the results of an evaluation that trains a layer")
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata() or {}
            weight, bias = opened.get_tensor("weight"), opened.get_tensor("bias")
        if notes["format"] != FORMAT:
            raise ValueError(f"it is of the format {notes['format']}, and this dinolab reads {FORMAT}")
        facts = json.loads(notes["layer"])
        if wrong := find_wrong(facts, LAYER_FACTS):
            raise ValueError(wrong)
        classes, taken = list(facts["classes"]), Input(facts["blocks"], facts["tokens"])
        if taken.blocks < 1 or taken.tokens not in TOKENS:
            raise ValueError(f"it takes {taken.tokens!r} of {taken.blocks} blocks")
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(classes) != len(weight):
            raise ValueError("weight, bias and classes do not belong together")
        height, width = facts["size"]
        precision, encoder = facts["precision"], dict(facts["encoder"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a layer of dinolab's ({error}); repeat its evaluation") from error
    linear = nn.Linear(*reversed(weight.shape)).requires_grad_(False)
    linear.load_state_dict({"weight": weight, "bias": bias})
    return LinearLayer(Trained(linear, taken), classes, (height, width), precision, encoder)
