"""timm's models as encoders: vision transformers of any kind, and networks without a class token, such as ResNet-50."""

import io
import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinolab.errors import UserError
from dinolab.models.encoder import Features, arranged, normalise
from dinolab.models.inputs import Images, to_batch
from dinolab.models.layers import SwiGLU
from dinolab.models.vit import ViT
from dinolab.pixels import Pixels
from dinolab.weights.hub import from_hub
from dinolab.weights.tensors import fit, read_backbone


class TimmEncoder(nn.Module):
    """An `Encoder` around a model of timm, with the mean and standard deviation that it was trained with.

    If it has no class token, `cls` is its pooled last feature map and `patches` is that map.
    """

    def __init__(self, model: Any, info: dict[str, Any]):
        super().__init__()
        from timm.data import resolve_model_data_config

        data = resolve_model_data_config(model)
        self.model = model
        self.info: dict[str, Any] = info
        self.dim: int = model.num_features
        self.image_size: int = data["input_size"][-1]
        self.patch_size: int = model.feature_info[-1]["reduction"]
        self.pixels = Pixels(data["input_size"][0], mean=tuple(data["mean"]), deviation=tuple(data["std"]))
        self.has_class_token = getattr(model, "cls_token", None) is not None

    def forward(self, images: Images) -> Features:
        """See `Encoder.__call__`."""
        return self.layers(images, 1)[0]

    def layers(self, images: Images, n: int) -> list[Features]:
        """See `Encoder.layers`."""
        x = self._prepare(images)
        if self.has_class_token:
            found = self._run(
                x, indices=min(n, len(self.model.blocks)), norm=True, return_prefix_tokens=True, intermediates_only=True
            )
            return [Features(prefix[:, 0], prefix[:, 1:], patches.permute(0, 2, 3, 1)) for patches, prefix in found]
        if n > 1:
            source = self.info["source"]
            raise UserError(f"{source} has no class token: only its last layer has features, not the last {n}")
        last, (patches,) = self._run(x, indices=1, norm=True)
        cls = self.model.forward_head(last, pre_logits=True)
        if (
            last.ndim == 4 and last.shape[1] == self.dim
        ):  # EfficientNets widen the map of their last block before it is pooled
            patches = last
        return [Features(cls, cls.new_empty(len(cls), 0, self.dim), patches.permute(0, 2, 3, 1))]

    def attention(self, images: Images) -> Tensor:
        """See `Encoder.attention`."""
        attn: Any = self.model.blocks[-1].attn if self.has_class_token else None
        if not hasattr(attn, "attn_drop") or not hasattr(attn, "fused_attn"):
            raise UserError(f"{self.info['source']} has no attention of a class token to show")
        weights: list[Tensor] = []
        hook = attn.attn_drop.register_forward_hook(lambda module, inputs, output: weights.append(output))
        fused, attn.fused_attn = attn.fused_attn, False  # the fused kernel keeps no weights
        try:
            self._run(self._prepare(images), indices=1)
        finally:
            hook.remove()
            attn.fused_attn = fused
        return weights[0]

    def _prepare(self, images: Images) -> Tensor:
        batch = to_batch(images, self.pixels)
        if min(batch.shape[-2:]) < self.patch_size:
            raise UserError(f"images of {tuple(batch.shape[-2:])} pixels are smaller than a patch of {self.patch_size}")
        weight = next(self.model.parameters())
        x = batch.to(weight.device)
        if hasattr(self.model, "patch_embed"):  # the remainder at the bottom or right is left out, as in our ViT
            h, w = (side // self.patch_size * self.patch_size for side in x.shape[-2:])
            x = x[..., :h, :w]
        x = x.float() if x.is_floating_point() else x
        return arranged(normalise(x, self.pixels).to(weight.dtype), self)

    def _run(self, x: Tensor, **options: Any) -> Any:
        try:
            return self.model.forward_intermediates(x, **options)
        except AssertionError as error:  # models whose windows or positions have a fixed size
            raise UserError(
                f"{self.info['source']} does not take images of {tuple(x.shape[-2:])} pixels: {error}"
            ) from error


def load_timm(name: str) -> TimmEncoder:
    """Opens a model of timm.

    Args:
        name: `NAME` for timm's own weights, downloaded or cached, or `NAME=FILE` for those of a file with timm's parameter names.

    Raises:
        UserError: timm is not installed or has no such model, or the weights cannot be found or do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError(f"timm:{name} needs timm: pip install 'dinolab[timm]'") from error
    name, _, file = name.partition("=")
    options: dict[str, Any] = {"pretrained": not file, "num_classes": 0}
    model: Any
    with from_hub(f"timm:{name}", downloads=not file):
        try:
            model = timm.create_model(name, dynamic_img_size=True, **options)
        except TypeError:  # a convolutional network, which has no such option and takes any size
            model = timm.create_model(name, **options)
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise UserError(f"timm:{name}: timm gives no feature maps of this model")
    if file:
        tensors = their_tensors(model, read_backbone(Path(file)), file)
        fit(model, tensors, f"{file} is not timm's {name}")
    return TimmEncoder(model, {"source": f"timm:{name}" + (f"={file}" if file else "")})


def their_tensors(model: Any, tensors: dict[str, Tensor], file: str) -> dict[str, Tensor]:
    """Tensors under the names of a timm model, without a classifier.

    Where names differ, they go through timm's own conversion of published files, such as DINOv3's. Raises UserError where that
    would leave out a bias.
    """
    classifier = model.pretrained_cfg["classifier"]
    tensors = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] != classifier}
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or not tensors.keys() - model.state_dict().keys():
        return tensors
    try:
        with redirect_stdout(io.StringIO()):  # it prints names that it skips
            found = dict(convert(dict(tensors), model))
    except Exception:  # it expects files of its own models; `fit` names what does not fit
        return tensors
    for name, tensor in tensors.items():
        start = name.removesuffix("qkv.bias")
        dropped = start != name and name not in found and f"{start}q_bias" not in found
        if dropped and any(part.count_nonzero() for part in tensor.chunk(3)[::2]):  # that of the keys has no effect
            raise UserError(
                f"{file}: {name} is not zero, and timm's model has no such bias: name the one that has, whose name ends with _qkvb"
            )
    return found


def to_timm(vit: ViT) -> Any:
    """timm's VisionTransformer with our weights, in evaluation mode.

    It has the options of timm's DINOv2 models, which filter position embeddings before they shrink them (`model.antialias`).
    """
    import timm

    first: Any = vit.blocks[0]
    swiglu = isinstance(first.mlp, SwiGLU)
    width = 2 * first.mlp.w3.in_features if swiglu else first.mlp.fc1.out_features
    pixels = vit.pixels
    size = (pixels.channels, vit.image_size, vit.image_size)
    model = timm.create_model(
        "vit_giant_patch14_dinov2" if swiglu else "vit_small_patch14_dinov2",  # for their feed-forward networks
        pretrained_cfg_overlay={"input_size": size, "mean": pixels.mean, "std": pixels.deviation},
        in_chans=pixels.channels,
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.dim,
        depth=len(vit.blocks),
        num_heads=first.attn.heads,
        mlp_ratio=math.nextafter(width / vit.dim, math.inf),  # timm rounds the product down
        reg_tokens=vit.cfg.registers,
        no_embed_class=True,  # the class token's position is added to the token itself
        dynamic_img_size=True,
        num_classes=0,
    )
    tensors = {name: torch.ones(vit.dim) for name in model.state_dict() if name.endswith((".ls1.gamma", ".ls2.gamma"))}
    for name, tensor in vit.state_dict().items():
        name = name.replace("register_tokens", "reg_token")
        name = name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2")
        tensors[name] = tensor.detach().cpu().float()
    position, tensors["pos_embed"] = tensors["pos_embed"].split([1, vit.pos_embed.shape[1] - 1], dim=1)
    tensors["cls_token"] = tensors["cls_token"] + position
    del tensors["mask_token"]  # only training uses it
    model.load_state_dict(tensors)
    return model.eval()
