"""Encoders from disk: a run's product, `model.safetensors` and `model.json`, and everybody else's weights."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dinolab.errors import UserError, reason
from dinolab.files import write_whole
from dinolab.models.backbone import Backbone, make_backbone
from dinolab.models.encoder import Encoder
from dinolab.options import Model
from dinolab.weights.checkpoint import is_checkpoint, read_checkpoint
from dinolab.weights.huggingface import load_huggingface
from dinolab.weights.meta import load_published
from dinolab.weights.tensors import fit, read_backbone
from dinolab.weights.timm_models import load_timm

FORMAT = "dinolab 1"
PRODUCT = ("model.json", "model.safetensors")


def save_encoder(backbone: Backbone, folder: Path, info: dict[str, Any]) -> None:
    """Write both files into the run's folder."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    card = {"format": FORMAT, "image_size": backbone.image_size, "model": asdict(backbone.cfg), "info": info}
    write_whole(folder / "model.safetensors", save(weights))
    write_whole(folder / "model.json", json.dumps(card, indent=2).encode())


def load(source: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """An encoder, frozen and in evaluation mode, from

    - a run's folder, or its model.safetensors, or one of its checkpoints/step_N;
    - a file as Meta published them for DINO and DINOv2 (.pth, .pt, .safetensors), ViTs and the ResNet-50;
    - `hf:NAME` or `hf:FOLDER`, of Hugging Face: Dinov2Model, Dinov2WithRegistersModel, ViTModel;
    - `timm:NAME`, or `timm:NAME=FILE` for timm's model with a file's weights.

    Raises UserError where something is missing, broken, or does not fit; it names tensor by tensor.
    """
    name, path = str(source), Path(source)
    if name.startswith("timm:"):
        encoder: Encoder = load_timm(name.removeprefix("timm:"))
    elif name.startswith("hf:"):
        encoder = Encoder(load_huggingface(name.removeprefix("hf:")), {"source": name})
    elif path.suffix in (".pth", ".pt", ".safetensors") and path.name not in PRODUCT:
        encoder = Encoder(load_published(path), {"source": name})
    else:
        encoder = load_run(path.parent if path.name in PRODUCT else path)
    try:
        return encoder.requires_grad_(False).to(device).eval()
    except (RuntimeError, AssertionError) as error:  # no such device, or no memory left on it
        raise UserError(f"device={device}: {source} cannot be put there ({reason(error)})") from error


def load_run(folder: Path) -> Encoder:
    if is_checkpoint(folder):
        return open_product(*read_checkpoint(folder), str(folder))
    for name in PRODUCT:
        if not (folder / name).is_file():
            theirs = f"; for Hugging Face's own, say hf:{folder}" if (folder / "config.json").is_file() else ""
            raise UserError(
                f"{folder}: no {name} there; give the folder of a dinolab run that has saved at least once{theirs}"
            )
    try:
        card = json.loads((folder / "model.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'model.json'}: not a dinolab model card ({error})") from error
    weights = folder / "model.safetensors"
    return open_product(card, read_backbone(weights), str(weights))


def open_product(card: Any, tensors: dict[str, Tensor], name: str) -> Encoder:
    """The encoder that a model card describes, with the tensors that are called `name` in errors."""
    try:
        if card.get("format") != FORMAT:
            raise UserError(f"{name}: the model.json has format {card.get('format')!r}, this dinolab reads {FORMAT!r}")
        with torch.device("meta"):
            backbone = make_backbone(Model(**card["model"]), card["image_size"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name}: its model.json is not a dinolab model card ({error})") from error
    fit(backbone, tensors, f"{name} does not fit its model.json")
    return Encoder(backbone, card.get("info", {}))
