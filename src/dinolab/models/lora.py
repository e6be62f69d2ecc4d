"""Low-rank adapters (LoRA, arXiv 2106.09685): a ViT's matrices stay fixed, and a product of two small ones is added to each."""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from dinolab.models.vit import ViT

A, B = "lora_a", "lora_b"
# words in the names of a backbone's parameters that are trained beside its fixed matrices
TRAINED = (A, B, "norm", "_token")


class LoRALinear(nn.Linear):
    """W x + b + B A x, with W and b of a given layer; A (rank, in) begins at random and B (out, rank) at zero. Section 4.1,
    with alpha = rank."""

    def __init__(self, given: nn.Linear, rank: int):
        super().__init__(given.in_features, given.out_features, device="meta")
        self.weight, self.bias = given.weight, given.bias
        self.lora_a = nn.Parameter(given.weight.new_empty(rank, given.in_features))
        self.lora_b = nn.Parameter(given.weight.new_zeros(given.out_features, rank))
        init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as nn.Linear's weights

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b)


def add_adapters(vit: ViT, rank: int) -> None:
    """Give each linear layer of the blocks an adapter, in place. Only adapters, norms and tokens are trained from now on."""
    for module in list(vit.blocks.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, LoRALinear(child, rank))
    for name, p in vit.named_parameters():
        if not name.startswith("patch_embed.stem."):  # which optim.stem_lr decides about
            p.requires_grad_(any(word in name for word in TRAINED))


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a network without adapters that computes the same: W + B A in place of W."""
    plain = {name: x for name, x in state.items() if not name.endswith((A, B))}
    for name, b in state.items():
        if name.endswith(B):
            layer = name.removesuffix(B)
            plain[f"{layer}weight"] = plain[f"{layer}weight"] + b @ state[layer + A]
    return plain
