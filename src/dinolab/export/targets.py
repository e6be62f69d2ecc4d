"""The formats to export to. Each has a writer, and a reader that runs the file with the library it was written for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dinolab.export.onnx import open_onnx, write_onnx
from dinolab.models.encoder import BackboneEncoder, Features, normalise
from dinolab.options import Model
from dinolab.pixels import Pixels
from dinolab.weights.huggingface import PREPROCESSOR, preprocessor, to_huggingface
from dinolab.weights.load import load, save_encoder
from dinolab.weights.timm_models import TimmEncoder, to_timm

Forward = Callable[[Tensor], Features]  # images (B, C, H, W) in [0, 1]


@dataclass(frozen=True)
class Target:
    """One format."""

    write: Callable[[BackboneEncoder, Path], None]  # into an empty folder
    open: Callable[[Path, Pixels], Forward]  # the pixels are for libraries that leave normalisation to their user
    same_positions: Callable[[Model], bool]  # whether the library resamples position embeddings as our ViT does
    tolerance: float = 1e-4  # largest difference from our own features, in fp32
    takes_stem: bool = False  # whether it has a place for the network of model.stem


def write_safetensors(encoder: BackboneEncoder, folder: Path) -> None:
    """Writes the files that training writes, model.safetensors and model.json."""
    save_encoder(encoder.backbone, folder, encoder.info)


def write_huggingface(encoder: BackboneEncoder, folder: Path) -> None:
    """Writes a model for transformers, and the file from which its image processors learn size, mean and deviation."""
    to_huggingface(encoder.vit).save_pretrained(folder)
    described = preprocessor(encoder.pixels, encoder.image_size)
    (folder / PREPROCESSOR).write_text(json.dumps(described, indent=2) + "\n")


def open_huggingface(folder: Path, pixels: Pixels) -> Forward:
    """Opens a model with transformers."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    registers, patch_size = getattr(model.config, "num_register_tokens", 0), model.config.patch_size

    def forward(images: Tensor) -> Features:
        tokens = model(normalise(images, pixels)).last_hidden_state
        grid = [side // patch_size for side in images.shape[-2:]]
        return Features(tokens[:, 0], tokens[:, 1 : 1 + registers], tokens[:, 1 + registers :].unflatten(1, grid))

    return forward


def write_timm(encoder: BackboneEncoder, folder: Path) -> None:
    """Writes a model for timm, with the normalisation that it needs."""
    from timm.models import save_for_hf

    pixels, side = encoder.pixels, encoder.image_size
    origin = {"pretrained_cfg": {"tag": "", "license": None}}  # not those of the model whose architecture it is
    data = {"input_size": (pixels.channels, side, side), "mean": pixels.mean, "std": pixels.deviation}
    save_for_hf(to_timm(encoder.vit), str(folder), safe_serialization=True, model_config=origin, data_config=data)


def open_timm(folder: Path) -> Forward:
    """Opens a model with timm."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    return TimmEncoder(model, {"source": str(folder)}).eval()


TARGETS = {
    "safetensors": Target(write_safetensors, lambda folder, pixels: load(folder), lambda cfg: True, takes_stem=True),
    "huggingface": Target(
        write_huggingface,
        open_huggingface,
        # the model with registers filters positions before it shrinks them, the one without does not
        lambda cfg: not cfg.interpolate_offset and (cfg.antialias or not cfg.registers),
    ),
    "timm": Target(
        write_timm, lambda folder, pixels: open_timm(folder), lambda cfg: not cfg.interpolate_offset and cfg.antialias
    ),
    "onnx": Target(write_onnx, lambda folder, pixels: open_onnx(folder), lambda cfg: True, tolerance=1e-3),
}
