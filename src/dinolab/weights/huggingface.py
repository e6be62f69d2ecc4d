"""Hugging Face's Dinov2Model, Dinov2WithRegistersModel and ViTModel (DINO), to our ViT and back."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.vit import SwiGLU, ViT
from dinolab.options import Model
from dinolab.weights.meta import LAYERSCALE, size_or_shape
from dinolab.weights.tensors import fit

RENAMES = {  # ours -> theirs; of the blocks, what the two families share
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
    """Hugging Face's names of the tensors which, one below the other, are ours of this name."""
    for ours, theirs in renames.items():
        name = name.replace(ours, theirs)
    name = f"layer{name}" if name.startswith("norm.") else name
    for joint, parts in (("qkv", ("q_proj", "k_proj", "v_proj")), ("w12", ("gate_proj", "up_proj"))):
        if f".{joint}." in name:
            return [name.replace(joint, part) for part in parts]
    return [name]


def load_huggingface(name: str) -> ViT:
    """A ViT from a folder or a name on the Hub. Raises UserError where it is not there, or not of our architecture."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"hf:{name} needs transformers: pip install 'dinolab[transformers]'") from error
    families: dict[str, tuple[Any, dict[str, Any]]] = {
        "dinov2": (transformers.Dinov2Model, {}),
        "dinov2_with_registers": (transformers.Dinov2WithRegistersModel, {}),
        "vit": (transformers.ViTModel, {"add_pooling_layer": False}),
    }
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        if config.model_type not in families:
            kinds = ", ".join(families)
            raise UserError(f"hf:{name}: a {config.model_type} model; dinolab reads {kinds}, and others by timm:NAME")
        family, options = families[config.model_type]
        model, report = family.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **options)
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:  # what a missing download, file or network comes out as
        raise UserError(f"hf:{name}: {' '.join(str(error).split())[:300]}") from error
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise UserError(f"hf:{name}: missing, or of another shape than config.json says: {'; '.join(wrong)}")
    return from_huggingface(model, f"hf:{name}")


def from_huggingface(model: Any, where: str) -> ViT:
    """Our ViT with the weights of a Hugging Face model of the three families. Raises UserError for variants we do not have."""
    config, theirs = model.config, model.state_dict()
    dinov2 = config.model_type != "vit"
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int) or config.hidden_act != "gelu":
        sizes = f"images of {config.image_size} and patches of {config.patch_size}"
        raise UserError(f"{where}: {sizes} with {config.hidden_act}; dinolab has square ones, with gelu")
    cfg = Model(
        **size_or_shape(config.hidden_size, config.num_hidden_layers, config.num_attention_heads),
        patch_size=config.patch_size,
        registers=getattr(config, "num_register_tokens", 0),
        layerscale=LAYERSCALE if dinov2 else 0.0,
        ffn="swiglu" if getattr(config, "use_swiglu_ffn", False) else "mlp",
        antialias=config.model_type == "dinov2_with_registers",
    )
    with torch.device("meta"):
        vit = ViT(cfg, config.image_size)
    tensors = {"mask_token": torch.zeros(1, vit.dim)}  # where they have none, none is used
    for name in vit.state_dict():
        parts = their_names(name, DINOV2 if dinov2 else VIT)
        if all(part in theirs for part in parts):
            tensors[name] = torch.cat([theirs.pop(part) for part in parts])
    theirs.pop("embeddings.register_tokens", None)  # of no registers
    fit(vit, tensors | theirs, f"{where} is not quite our ViT")
    return vit


def to_huggingface(vit: ViT) -> Any:
    """A Dinov2Model with our weights, or a Dinov2WithRegistersModel: that one alone has registers and filters positions."""
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    first: Any = vit.blocks[0]
    shape = {
        "hidden_size": vit.dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": first.attn.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
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
