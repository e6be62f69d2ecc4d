"""What can be exported to: a writer for each, and a reader that runs what was written, with none of our ViT but in our own format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dinolab.export.onnx import open_onnx, write_onnx
from dinolab.models.encoder import Encoder, Features, normalise
from dinolab.options import Model
from dinolab.weights.huggingface import to_huggingface
from dinolab.weights.load import load, save_encoder
from dinolab.weights.timm_models import TimmEncoder, to_timm

Forward = Callable[[Tensor], Features]  # images (B, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class Target:
    write: Callable[[Encoder, Path], None]
    open: Callable[[Path], Forward]
    same_positions: Callable[[Model], bool]  # whether it resamples the positions of such a model as we do
    tolerance: float = 1e-4  # largest difference from our own features, in fp32


def write_safetensors(encoder: Encoder, folder: Path) -> None:
    save_encoder(encoder.backbone, folder, encoder.info)


def write_huggingface(encoder: Encoder, folder: Path) -> None:
    to_huggingface(encoder.vit).save_pretrained(folder)


def open_huggingface(folder: Path) -> Forward:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    registers, patch_size = getattr(model.config, "num_register_tokens", 0), model.config.patch_size

    def forward(images: Tensor) -> Features:
        tokens = model(normalise(images)).last_hidden_state
        grid = [side // patch_size for side in images.shape[-2:]]
        return Features(tokens[:, 0], tokens[:, 1 : 1 + registers], tokens[:, 1 + registers :].unflatten(1, grid))

    return forward


def write_timm(encoder: Encoder, folder: Path) -> None:
    from timm.models import save_for_hf

    size = (3, encoder.image_size, encoder.image_size)
    origin = {"pretrained_cfg": {"tag": "", "license": None}}  # not those of the model that lends its architecture
    data = {"input_size": size}
    save_for_hf(to_timm(encoder.vit), str(folder), safe_serialization=True, model_config=origin, data_config=data)


def open_timm(folder: Path) -> Forward:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    return TimmEncoder(model, {"source": str(folder)}).eval()


TARGETS = {
    "safetensors": Target(write_safetensors, load, lambda cfg: True),
    # one of its models filters and one does not, and only the one that does has registers
    "huggingface": Target(
        write_huggingface,
        open_huggingface,
        lambda cfg: not cfg.interpolate_offset and (cfg.antialias or not cfg.registers),
    ),
    "timm": Target(write_timm, open_timm, lambda cfg: not cfg.interpolate_offset and cfg.antialias),
    "onnx": Target(write_onnx, open_onnx, lambda cfg: True, tolerance=1e-3),
}
