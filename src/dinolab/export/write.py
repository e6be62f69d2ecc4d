"""Writes an exported model, loads it again and compares its features with ours. A model that differs is not kept."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dinolab.errors import UserError
from dinolab.evals.layer import LinearLayer
from dinolab.export.card import model_card
from dinolab.export.classifier import CLASSIFIERS, Logits, open_layer
from dinolab.export.targets import TARGETS, Forward
from dinolab.files import naming
from dinolab.models.encoder import BackboneEncoder, Encoder, evaluating
from dinolab.models.vit import ViT
from dinolab.weights.load import is_product, load

IMAGES = 3  # number of random images of each size that are compared


@dataclass(frozen=True)
class Check:
    """How far the features of the exported model are from ours."""

    differences: dict[
        tuple[int, int], float
    ]  # the largest difference of any number, in fp32, by image size (height, width)
    remark: str  # how far they are at image sizes for which the library resamples positions in another way; else ""
    probabilities: float | None = None  # the largest difference of a class's probability; None without a layer

    def __str__(self) -> str:
        sizes = ", ".join(f"{value:.1e} at {h} x {w} pixels" for (h, w), value in self.differences.items())
        classes = f"; of probabilities: {self.probabilities:.1e}" if self.probabilities is not None else ""
        return f"largest difference from dinolab's features: {sizes}{self.remark}{classes}"

    @property
    def largest(self) -> float:
        """The largest of all differences but that in the remark; not a number if one of them is none."""
        return torch.tensor([*self.differences.values(), self.probabilities or 0.0]).max().item()


def export(source: str | Path, to: str, out: Path | None = None, layer: str | Path | None = None) -> tuple[Path, Check]:
    """Writes a model for another library into a new folder.

    Args:
        source: any source that `load` opens as a ViT of dinolab.
        to: the library, a key of `TARGETS`.
        out: the new folder; by default NAME-TO in the current folder.
        layer: the results of an evaluation that trained a linear layer on this model: it is exported too, so that the model classifies.

    Returns:
        The folder, and how far the features of the loaded model are from ours.

    Raises:
        UserError: the folder is not empty, a library is missing, the format or the model does not take the layer, or features or
            probabilities differ too much. Then nothing is written.
    """
    encoder, target = load(source), TARGETS[to]
    if not isinstance(encoder, BackboneEncoder) or not isinstance(encoder.backbone, ViT):
        raise UserError(
            f"{source}: only dinolab's own ViT can be exported, not a timm model or a ResNet-50; the model.safetensors of a run "
            "with a ResNet-50 already has the parameter names of timm and torchvision: timm:resnet50=FILE"
        )
    if encoder.backbone.cfg.stem and not target.takes_stem:
        able = " and ".join(name for name, one in TARGETS.items() if one.takes_stem)
        raise UserError(
            f"{source}: to={to} has no place for its model.stem={encoder.backbone.cfg.stem}; take to={able}"
        )
    if layer and to not in CLASSIFIERS:
        raise UserError(f"layer={layer}: to={to} holds no layer; {' and '.join(CLASSIFIERS)} do")
    head = open_layer(layer, encoder) if layer else None
    out = out or Path(f"{default_name(str(source))}-{to}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; name another folder with out=")
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), TemporaryDirectory(dir=out.parent, prefix=".export-") as beside:
        folder = Path(beside, "model")
        folder.mkdir()
        try:
            if head:
                CLASSIFIERS[to].write(encoder, head, folder)
            else:
                target.write(encoder, folder)
            forward = target.open(folder, encoder.pixels)
        except ImportError as error:
            extra = "transformers" if to == "huggingface" else to
            raise UserError(f"to={to} needs {error.name}: pip install 'dinolab[{extra}]'") from error
        check = compare(encoder, forward, target.same_positions(encoder.vit.cfg), to)
        if head:
            logits = CLASSIFIERS[to].open(folder, encoder.pixels)
            check = replace(check, probabilities=difference_of_probabilities(encoder, head, logits))
        if not check.largest <= target.tolerance:  # also when it is NaN
            raise UserError(f"to={to} failed, nothing is written: {check}; {target.tolerance:g} is allowed")
        (folder / "README.md").write_text(model_card(encoder, source, out.name, to, str(check), head))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return out, check


def compare(encoder: BackboneEncoder, forward: Forward, same_positions: bool, to: str) -> Check:
    """Compares features of random images of the model's own size and of another size.

    Where the library resamples positions in another way, the difference at the other size is only a remark.

    Args:
        encoder: ours.
        forward: the exported model.
        same_positions: whether the library resamples positions as our ViT does.
        to: the library, for the remark.
    """
    size, patch, cfg = encoder.image_size, encoder.patch_size, encoder.vit.cfg
    own, other = (size, size), (size + 2 * patch, max(patch, size - patch))
    differences = {each: difference(encoder, forward, each) for each in (own, other)}
    if same_positions:
        return Check(differences, "")
    remark = (
        f"; at other sizes {to} does not resample positions as model.antialias={str(cfg.antialias).lower()} and "
        f"model.interpolate_offset={cfg.interpolate_offset} do: the difference is {differences.pop(other):.1e} at "
        f"{other[0]} x {other[1]} pixels"
    )
    return Check(differences, remark)


def difference(encoder: Encoder, forward: Forward, size: tuple[int, int]) -> float:
    """The largest difference of any feature of random images of a size (height, width)."""
    images = torch.rand(IMAGES, encoder.pixels.channels, *size, generator=torch.Generator().manual_seed(0))
    with evaluating(encoder), torch.inference_mode():
        pairs = zip(encoder(images), forward(images), strict=True)
        return max((ours - theirs).abs().max().item() for ours, theirs in pairs if ours.numel())


def difference_of_probabilities(encoder: BackboneEncoder, layer: LinearLayer, logits: Logits) -> float:
    """The largest difference of a class's probability, for random images of the size that the layer takes."""
    images = torch.rand(IMAGES, encoder.pixels.channels, *layer.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = layer(layer.taken.encode(encoder, images, "fp32")).softmax(1)
        return (ours - logits(images).softmax(1)).abs().max().item()


def default_name(source: str) -> str:
    """The name of a source without its folder, and of a run without its file.

    For example runs/mine and runs/mine/model.safetensors give mine, dino_vits16.pth gives dino_vits16, and
    hf:facebook/dinov2-small gives dinov2-small.
    """
    path = Path(source.partition(":")[2] if source.startswith("hf:") else source).resolve()
    if is_product(path):
        return path.parent.name
    return path.stem if path.suffix in (".pth", ".pt", ".safetensors") else path.name
