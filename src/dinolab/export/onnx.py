"""ONNX, for any batch size, height and width. The ViT is written without packing, so that PyTorch's exporter can follow it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.evals.layer import LinearLayer
from dinolab.models.encoder import BackboneEncoder, Features
from dinolab.models.vit import ViT

FILE = "model.onnx"
LARGEST = 1_900_000_000  # bytes; a protobuf file cannot exceed 2 GiB, so larger weights go into a second file


class DenseViT(nn.Module):
    """A ViT for images of one size, which it normalises itself.

    Floats in [0, 1], (B, C, H, W) -> cls (B, D), registers (B, R, D) if there are any, patches (B, h, w, D), and with a layer its
    logits (B, classes).
    """

    mean: Tensor  # (C, 1, 1)
    deviation: Tensor

    def __init__(self, vit: ViT, layer: LinearLayer | None = None):
        super().__init__()
        self.vit, self.layer = vit, layer
        # `normalise` caches its constants, and the exporter runs this with stand-ins for tensors, which must not be cached
        self.register_buffer("mean", torch.tensor(vit.pixels.mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(vit.pixels.deviation).view(-1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        vit: Any = self.vit
        patches = vit.patch_embed((images - self.mean) / self.deviation)
        b, h, w, _ = patches.shape
        patches = patches + self.positions(h, w)
        first = [(vit.cls_token + vit.pos_embed[:, :1]).expand(b, -1, -1)]
        first += [vit.register_tokens.expand(b, -1, -1)] if vit.cfg.registers else []
        x = torch.cat([*first, patches.flatten(1, 2)], dim=1)
        outs = []
        for block in vit.blocks:
            q, k, v = (part.transpose(1, 2) for part in block.attn.split_heads(block.norm1(x)))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + block.ls1(block.attn.proj(mixed))
            x = x + block.ls2(block.mlp(block.norm2(x)))
            outs.append(x)
        x = vit.norm(x)
        r = vit.cfg.registers
        registers = [x[:, 1 : 1 + r]] if r else []
        features = x[:, 0], *registers, x[:, 1 + r :].unflatten(1, (h, w))
        return (*features, self.logits(outs, x[:, 1 + r :].mean(1), self.layer)) if self.layer else features

    def logits(self, outs: list[Tensor], mean: Tensor, layer: LinearLayer) -> Tensor:
        """Logits (B, classes), from the tokens after each block (B, T, D) and the mean of the last block's patches (B, D)."""
        cls = [self.vit.norm(out)[:, 0] for out in outs[-layer.taken.blocks :]]
        taken = {"cls": cls, "patches": [mean], "both": [*cls, mean]}[layer.taken.tokens]
        return layer(torch.cat(taken, 1))

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings of the patches, (h, w, D). One matrix for each side resamples them to any h and w."""
        side = self.vit.image_size // self.vit.patch_size
        grid = self.vit.pos_embed[0, 1:].unflatten(0, (side, side))
        # compared as tensors, since h and w are unknown during export
        resampled = (torch.full((1, 1), h) != side) | (torch.full((1, 1), w) != side)
        offset = self.vit.cfg.interpolate_offset * resampled
        down, across = (bicubic(n, side, self.vit.cfg.antialias, offset) for n in (h, w))
        return torch.einsum("hy,yxd,wx->hwd", down, grid, across)


def bicubic(new: int, old: int, antialias: bool, offset: Tensor | float = 0.0) -> Tensor:
    """The matrix (new, old) with which F.interpolate's bicubic mode (align_corners=False) resamples one side.

    It is Keys' cubic convolution. As in PyTorch, a is -0.5 with the antialias filter and -0.75 without.

    Args:
        new: number of samples after resampling.
        old: number of samples before.
        antialias: whether the kernel becomes wider when the side shrinks.
        offset: the scale factor is (new + offset) / old.
    """
    scale = old / (torch.full((1, 1), new, dtype=torch.float32) + offset)
    centre = (torch.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        weights = cubic((torch.arange(old) - centre) / scale.clamp(min=1), -0.5)
        return weights / weights.sum(1, keepdim=True)
    weights = cubic(torch.arange(-2, old + 2) - centre, -0.75)
    left, inside, right = weights.split([2, old, 2], dim=1)  # samples beyond the border have its value
    edge = torch.arange(old)
    return inside + left.sum(1, keepdim=True) * (edge == 0) + right.sum(1, keepdim=True) * (edge == old - 1)


def cubic(x: Tensor, a: float) -> Tensor:
    """The kernel of Keys (1981, equation 15) with the parameter a."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def write_onnx(encoder: BackboneEncoder, folder: Path, layer: LinearLayer | None = None) -> None:
    """Writes `model.onnx`, with the input `images` and the outputs `cls`, `registers` if there are any, and `patches`.

    With a layer, `logits` is the last output, and the metadata have the names of the `classes` and the `size` of images, both as JSON.
    """
    import onnxscript  # noqa: F401  torch's exporter needs it

    p, size = encoder.patch_size, encoder.image_size
    dense = DenseViT(encoder.vit, layer).eval()
    outputs = ["cls", "registers", "patches"] if encoder.vit.cfg.registers else ["cls", "patches"]
    outputs += ["logits"] if layer else []
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=p), 3: torch.export.Dim("width", min=p)}
    program = torch.onnx.export(
        dense,
        (torch.rand(2, encoder.pixels.channels, size + 3 * p, size + 5 * p),),
        input_names=["images"],
        output_names=outputs,
        dynamic_shapes={"images": dims},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it can only be None without dynamo
    if layer:
        program.model.metadata_props.update({"classes": json.dumps(layer.classes), "size": json.dumps(layer.size)})
    n_bytes = sum(t.numel() * t.element_size() for t in encoder.vit.state_dict().values())
    program.save(str(folder / FILE), external_data=n_bytes > LARGEST)


def open_onnx(folder: Path) -> Callable[[Tensor], Features]:
    """Opens `model.onnx` with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs() if one.name != "logits"]

    def forward(images: Tensor) -> Features:
        cls, *registers, patches = (torch.from_numpy(x) for x in session.run(names, {"images": images.numpy()}))
        return Features(cls, registers[0] if registers else cls.new_empty(len(cls), 0, cls.shape[1]), patches)

    return forward
