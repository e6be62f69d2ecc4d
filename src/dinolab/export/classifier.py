"""The linear layer of an evaluation within an exported model, which then classifies images.

C classes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.evals.layer import LinearLayer, load_layer
from dinolab.evals.predict import find_layer
from dinolab.export.onnx import FILE, write_onnx
from dinolab.features.cache import checksum
from dinolab.models.encoder import BackboneEncoder, normalise
from dinolab.pixels import Pixels
from dinolab.weights.huggingface import PREPROCESSOR, preprocessor, to_huggingface

Logits = Callable[[Tensor], Tensor]  # images (B, C, H, W) in [0, 1] -> (B, C) of the classes


@dataclass(frozen=True)
class Classifier:
    """How one format holds a layer."""

    write: Callable[[BackboneEncoder, LinearLayer, Path], None]  # encoder and layer into an empty folder
    open: Callable[[Path, Pixels], Logits]


def open_layer(place: str | Path, encoder: BackboneEncoder) -> LinearLayer:
    """The layer of an evaluation, or of a run, as `find_layer` takes them. Raises UserError where it belongs to other weights."""
    file = find_layer(place)
    layer = load_layer(file)
    if checksum(encoder.state_dict(), {}) != layer.encoder.get("weights_crc32"):
        raise UserError(f"layer={file}: was trained on other weights; name an evaluation of the model that is exported")
    return layer


def write_huggingface(encoder: BackboneEncoder, layer: LinearLayer, folder: Path) -> None:
    """A Dinov2ForImageClassification, whose classifier takes the class token and the mean of the patches of the last block.

    Features that the layer does not take get weights of zero. Raises UserError for a layer that takes more, or another shape of images.
    """
    import transformers

    height, width = layer.size
    if layer.taken.blocks > 1 or height != width:
        raise UserError(
            "layer=: Hugging Face's classifier takes the last block of square images, and this layer takes "
            f"{layer.taken.blocks} blocks of {height} x {width} pixels; repeat `dinolab eval logreg`, or export to=onnx"
        )
    base = to_huggingface(encoder.vit)
    base.config.id2label = dict(enumerate(layer.classes))
    base.config.label2id = {name: i for i, name in enumerate(layer.classes)}
    family = getattr(transformers, type(base).__name__.replace("Model", "ForImageClassification"))
    with torch.device("meta"):
        whole: nn.Module = family(base.config)
    parts = {"cls": (1, 0), "patches": (0, 1), "both": (1, 1)}[layer.taken.tokens]
    given = iter(layer.linear.weight.split(encoder.dim, 1))
    weight = [next(given) if part else layer.linear.weight.new_zeros(len(layer.classes), encoder.dim) for part in parts]
    tensors = {f"{base.base_model_prefix}.{name}": tensor for name, tensor in base.state_dict().items()}
    tensors |= {"classifier.weight": torch.cat(weight, 1), "classifier.bias": layer.linear.bias}
    whole.load_state_dict(tensors, assign=True)
    whole.save_pretrained(folder)  # type: ignore[operator]
    described = preprocessor(encoder.pixels, height)
    (folder / PREPROCESSOR).write_text(json.dumps(described, indent=2) + "\n")


def open_huggingface(folder: Path, pixels: Pixels) -> Logits:
    """Opens the model with transformers."""
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    return lambda images: model(normalise(images, pixels)).logits


def open_onnx(folder: Path, pixels: Pixels) -> Logits:
    """Opens `model.onnx` with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


CLASSIFIERS = {
    "huggingface": Classifier(write_huggingface, open_huggingface),
    "onnx": Classifier(lambda encoder, layer, folder: write_onnx(encoder, folder, layer), open_onnx),
}
