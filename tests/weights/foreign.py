"""Hugging Face models with random weights, and their weights in the layout of the official files."""

import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from dinolab.models.encoder import normalise
from dinolab.models.vit import Features

DIM, DEPTH, PATCH, SIZE = 128, 3, 8, 40  # two heads of 64, as published models have them
RENAMES = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("layers.", "blocks."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layernorm.", "norm."),
    ("attention.o_proj", "attn.proj"),
    ("attention.q_proj", "attn.qkv"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("mlp.gate_proj", "mlp.w12"),
    ("mlp.down_proj", "mlp.w3"),
)


def random_model(kind: str, swiglu: bool = False) -> nn.Module:
    """`dinov2`, `registers` or `dino`; small, with weights away from their usual initial values, which would hide mistakes."""
    shape = {
        "hidden_size": DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 2,
        "patch_size": PATCH,
        "image_size": SIZE,
    }
    model: nn.Module
    if kind == "dino":
        config = ViTConfig(intermediate_size=4 * DIM, layer_norm_eps=1e-6, **shape)
        model = ViTModel(config, add_pooling_layer=False)
    elif kind == "registers":
        model = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(use_swiglu_ffn=swiglu, num_register_tokens=4, **shape)
        )
    else:
        model = Dinov2Model(Dinov2Config(use_swiglu_ffn=swiglu, **shape))
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    return model.eval()


def official_layout(model: nn.Module) -> dict[str, Tensor]:
    theirs, ours = model.state_dict(), {}
    for name, tensor in theirs.items():
        parts = (
            ("q_proj", "k_proj", "v_proj")
            if "q_proj" in name
            else ("gate_proj", "up_proj")
            if "gate_proj" in name
            else ()
        )
        if parts:
            tensor = torch.cat([theirs[name.replace(parts[0], part)] for part in parts])
        elif any(part in name for part in ("k_proj", "v_proj", "up_proj")):
            continue
        for old, new in RENAMES:
            name = name.replace(old, new)
        ours[name] = tensor.clone()
    return ours


def features_of(model: nn.Module, images: Tensor) -> Features:
    """What Hugging Face computes for images in [0, 1]."""
    dino = isinstance(model, ViTModel)
    registers = getattr(model.config, "num_register_tokens", 0)
    with torch.inference_mode():
        tokens = model(normalise(images), **({"interpolate_pos_encoding": True} if dino else {})).last_hidden_state
    grid = [side // PATCH for side in images.shape[-2:]]
    return Features(tokens[:, 0], tokens[:, 1 : 1 + registers], tokens[:, 1 + registers :].unflatten(1, grid))


def assert_same(a: Features, b: Features, atol: float = 1e-5) -> None:
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)
