"""The weights of a run, saved and loaded, and the one function that opens the weights of any origin."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dinolab.config import read_options
from dinolab.errors import UserError, reason
from dinolab.files import write_whole
from dinolab.models.backbone import Backbone, make_backbone
from dinolab.models.encoder import BackboneEncoder, Encoder
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels
from dinolab.rundir import CARD, RunFolder, read_object
from dinolab.weights.checkpoint import is_checkpoint, read_checkpoint
from dinolab.weights.huggingface import load_huggingface
from dinolab.weights.meta import load_published
from dinolab.weights.tensors import fit, read_backbone
from dinolab.weights.timm_models import load_timm

FORMAT = "dinolab 1"  # of the model card
LARGEST_IMAGE = 1 << 15  # side in pixels


def load(source: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Opens an encoder, frozen and in evaluation mode.

    Args:
        source: one of
            - the folder of a run, or its model.safetensors, or one of its checkpoints/step_N;
            - a file that Meta published for DINO or DINOv2 (.pth, .pt, .safetensors), a ViT or the ResNet-50;
            - `hf:NAME` or `hf:FOLDER` for Hugging Face's Dinov2Model, Dinov2WithRegistersModel or ViTModel;
            - `timm:NAME` for a model of timm, or `timm:NAME=FILE` for that model with the weights of a file.
        device: where to put it.

    Raises:
        UserError: a file is missing or broken, its tensors do not fit (the message names them), or there is no such device.
    """
    name, path = str(source), Path(source)
    encoder: Encoder
    if name.startswith("timm:"):
        encoder = load_timm(name.removeprefix("timm:"))
    elif name.startswith("hf:"):
        encoder = BackboneEncoder(load_huggingface(name.removeprefix("hf:")), {"source": name})
    elif is_product(path):
        encoder = load_run(path.parent)
    elif path.suffix in (".pth", ".pt", ".safetensors"):
        encoder = BackboneEncoder(load_published(path), {"source": name})
    else:
        encoder = load_run(path)
    try:
        return encoder.requires_grad_(False).to(device).eval()
    except (RuntimeError, AssertionError) as error:  # no such device, or not enough memory on it
        raise UserError(f"device={device}: {source} cannot be put there ({reason(error)})") from error


def is_product(path: Path) -> bool:
    """Whether a path has the name of a run's weights or of their model card."""
    run = RunFolder(path.parent)
    return path in (run.weights, run.card)


def save_encoder(backbone: Backbone, folder: Path, info: dict[str, Any]) -> None:
    """Writes weights and model card.

    Args:
        backbone: the trained network.
        folder: of the run.
        info: where the weights come from, for the model card: method, step, images, config.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    card = {
        "format": FORMAT,
        "image_size": backbone.image_size,
        "pixels": backbone.pixels.to_json(),
        "model": asdict(backbone.cfg),
        "info": info,
    }
    run = RunFolder(folder)
    write_whole(run.weights, save(weights))
    write_whole(run.card, json.dumps(card, indent=2).encode())


def load_run(folder: Path) -> BackboneEncoder:
    """Opens the weights in the folder of a run, or in one of its checkpoints. Raises UserError where they are missing or broken."""
    if is_checkpoint(folder):
        return open_product(*read_checkpoint(folder), str(folder))
    run = RunFolder(folder)
    for file in (run.card, run.weights):
        if not file.is_file():
            way_out = "give the folder of a dinolab run that has saved at least once"
            if (folder / "config.json").is_file():
                way_out += f"; if it is a model of Hugging Face, write hf:{folder}"
            raise UserError(f"{folder}: no {file.name} there; {way_out}")
    return open_product(read_object(run.card, CARD), read_backbone(run.weights), str(run.weights))


def open_product(card: Any, tensors: dict[str, Tensor], name: str) -> BackboneEncoder:
    """Builds the encoder that a model card describes.

    Args:
        card: content of model.json. Cards without "pixels" are of RGB images.
        tensors: the weights.
        name: of the weights, for messages.

    Raises:
        UserError: the card is not one of dinolab's, or the tensors do not fit it.
    """
    if card.get("format") != FORMAT:
        raise UserError(f"{name}: its model.json has format {card.get('format')!r}, this dinolab reads {FORMAT!r}")
    try:
        pixels = Pixels.from_json(card["pixels"]) if "pixels" in card else RGB
        model = read_options(Model, layers=[("model", card["model"])])
        if not 1 <= card["image_size"] <= LARGEST_IMAGE:
            raise ValueError(f"image_size={card['image_size']}")
        with torch.device("meta"):
            backbone = make_backbone(model, card["image_size"], pixels=pixels)
    except (UserError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{name}: its model.json is not a dinolab model card ({reason(error)})") from error
    fit(backbone, tensors, f"{name} does not fit its model.json")
    return BackboneEncoder(backbone, card.get("info", {}))
