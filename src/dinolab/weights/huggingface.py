"""Converts Hugging Face's Dinov2Model, Dinov2WithRegistersModel and ViTModel (DINO) to our ViT, and back."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dinolab.data.views import eval_margin
from dinolab.errors import UserError
from dinolab.models.layers import SwiGLU
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels
from dinolab.weights.hub import from_hub
from dinolab.weights.meta import LAYERSCALE, size_or_shape
from dinolab.weights.tensors import fit

PREPROCESSOR = "preprocessor_config.json"  # the file
RENAMES = {  # our names to theirs, as far as the two families share them
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "attn.": "attention.",
    "attention.proj": "attention.o_proj",
}
DINOV2 = RENAMES | {
    "blocks.": "encoder.layer.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w3": "mlp.down_proj",
}
VIT = RENAMES | {"blocks.": "layers.", "norm1": "layernorm_before", "norm2": "layernorm_after"}


def their_names(name: str, renames: dict[str, str]) -> list[str]:
    """The names in Hugging Face's models of the tensors that, concatenated, are our tensor `name`."""
    for ours, theirs in renames.items():
        name = name.replace(ours, theirs)
    name = f"layer{name}" if name.startswith("norm.") else name
    for joint, parts in (("qkv", ("q_proj", "k_proj", "v_proj")), ("w12", ("gate_proj", "up_proj"))):
        if f".{joint}." in name:
            return [name.replace(joint, part) for part in parts]
    return [name]


def load_huggingface(name: str) -> ViT:
    """Opens a folder, or a model on the Hub, as our ViT.

    Raises UserError where it cannot be read or downloaded, or has another architecture.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"hf:{name} needs transformers: pip install 'dinolab[transformers]'") from error
    families: dict[str, tuple[Any, dict[str, Any]]] = {
        "dinov2": (transformers.Dinov2Model, {}),
        "dinov2_with_registers": (transformers.Dinov2WithRegistersModel, {}),
        "vit": (transformers.ViTModel, {"add_pooling_layer": False}),
    }
    with from_hub(f"hf:{name}", downloads=not Path(name).exists()):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in families:
            kinds = ", ".join(families)
            raise UserError(f"hf:{name}: a {config.model_type} model; dinolab reads {kinds}, and others by timm:NAME")
        family, options = families[config.model_type]
        model, report = family.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise UserError(f"hf:{name}: tensors are missing, or their shape differs from config.json: {'; '.join(wrong)}")
    return from_huggingface(model, f"hf:{name}", read_pixels(name, config.num_channels))


def read_pixels(name: str, channels: int) -> Pixels:
    """The pixels that a model's preprocessor_config.json describes; those of RGB with ImageNet's mean where an RGB model lacks the file.

    Raises UserError where the file is missing or does not fit a model with other channels.
    """
    import transformers

    try:
        content, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):  # there is no such file
        content = {}
    mean, deviation = (
        content.get(key, usual) for key, usual in (("image_mean", RGB.mean), ("image_std", RGB.deviation))
    )
    if not content.get("do_normalize", True):
        mean, deviation = (0.0,) * channels, (1.0,) * channels
    try:
        maximum = round(1 / content.get("rescale_factor", 1 / RGB.maximum))
        return Pixels(channels, maximum, tuple(mean), tuple(deviation))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"hf:{name}: its preprocessor_config.json is missing or does not fit the model ({error})"
        ) from error


def preprocessor(pixels: Pixels, side: int) -> dict[str, Any]:
    """The content of a preprocessor_config.json: Hugging Face's processor then makes the view that dinolab's evaluations use.

    It normalises as dinolab does. It resizes with a bicubic filter, as Meta does, where dinolab averages over areas.

    Args:
        pixels: what the model takes.
        side: of the square that is cut out of the centre of an image, in pixels.
    """
    return {
        "image_processor_type": "BitImageProcessor",  # which the published DINOv2 models have, too
        "do_convert_rgb": pixels.channels == RGB.channels,
        "do_resize": True,
        "size": {"shortest_edge": round(side * eval_margin(side))},
        "resample": Image.Resampling.BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / pixels.maximum,
        "do_normalize": True,
        "image_mean": pixels.mean,
        "image_std": pixels.deviation,
    }


def from_huggingface(model: Any, where: str, pixels: Pixels = RGB) -> ViT:
    """Our ViT with the weights of a Hugging Face model.

    Args:
        model: of one of the three families.
        where: its name, for messages.
        pixels: the pixels that it takes.

    Raises:
        UserError: the model has a variant of the architecture that our ViT does not have.
    """
    config, theirs = model.config, model.state_dict()
    dinov2 = config.model_type != "vit"
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int) or config.hidden_act != "gelu":
        sizes = f"images of {config.image_size} and patches of {config.patch_size}"
        raise UserError(f"{where}: {sizes} with {config.hidden_act}; dinolab has only square ones, with gelu")
    cfg = Model(
        **size_or_shape(config.hidden_size, config.num_hidden_layers, config.num_attention_heads),
        patch_size=config.patch_size,
        registers=getattr(config, "num_register_tokens", 0),
        layerscale=LAYERSCALE if dinov2 else 0.0,
        ffn="swiglu" if getattr(config, "use_swiglu_ffn", False) else "mlp",
        antialias=config.model_type == "dinov2_with_registers",
    )
    with torch.device("meta"):
        vit = ViT(cfg, config.image_size, pixels=pixels)
    tensors = {"mask_token": torch.zeros(1, vit.dim)}  # a model without one does not use it
    for name in vit.state_dict():
        parts = their_names(name, DINOV2 if dinov2 else VIT)
        if all(part in theirs for part in parts):
            tensors[name] = torch.cat([theirs.pop(part) for part in parts])
    theirs.pop("embeddings.register_tokens", None)  # it is empty where there are no registers
    fit(vit, tensors | theirs, f"{where} differs from our ViT")
    return vit


def to_huggingface(vit: ViT) -> Any:
    """A Hugging Face model with our weights, in evaluation mode.

    It is a Dinov2WithRegistersModel if our ViT has registers, or filters positions before it shrinks them, since only that one does;
    else it is a Dinov2Model.
    """
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    first: Any = vit.blocks[0]
    shape = {
        "hidden_size": vit.dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": first.attn.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
        "num_channels": vit.pixels.channels,
        "use_swiglu_ffn": isinstance(first.mlp, SwiGLU),
    }
    model: nn.Module
    with torch.device("meta"):
        if vit.cfg.registers or vit.cfg.antialias:
            config = Dinov2WithRegistersConfig(num_register_tokens=vit.cfg.registers, **shape)
            model = Dinov2WithRegistersModel(config)
        else:
            model = Dinov2Model(Dinov2Config(**shape))
    tensors: dict[str, Tensor] = {name: torch.ones(vit.dim) for name in model.state_dict() if "layer_scale" in name}
    tensors["embeddings.register_tokens"] = torch.empty(1, 0, vit.dim)
    for name, tensor in vit.state_dict().items():
        parts = their_names(name, DINOV2)
        tensors |= dict(zip(parts, tensor.detach().cpu().chunk(len(parts))))
    model.load_state_dict({name: tensors[name].float().contiguous() for name in model.state_dict()}, assign=True)
    return model.eval()
