"""Write, reload, compare; what does not compare equal is not kept."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dinolab.errors import UserError
from dinolab.export.card import model_card
from dinolab.export.targets import TARGETS, Forward
from dinolab.models.encoder import Encoder, evaluating
from dinolab.models.vit import ViT
from dinolab.weights.load import load

IMAGES = 3  # random ones, of each size


@dataclass(frozen=True)
class Check:
    """How far the exported model's features are from ours: the largest difference of any number, in fp32, by image size."""

    differences: dict[tuple[int, int], float]
    remark: str  # where positions are resampled otherwise, by how much the features then differ

    def __str__(self) -> str:
        sizes = ", ".join(f"{value:.1e} at {h} x {w} pixels" for (h, w), value in self.differences.items())
        return f"largest difference from dinolab's features: {sizes}{self.remark}"


def export(source: str | Path, to: str, out: Path | None = None) -> tuple[Path, Check]:
    """Write a model, anything that `load` takes and that is our ViT, for another library, into a new folder.

    `out` defaults to SOURCE-TO in the current folder. Raises UserError where the folder is not empty, a library is missing, or
    the reloaded model's features are not ours; then nothing is left behind.
    """
    encoder, target = load(source), TARGETS[to]
    if not isinstance(getattr(encoder, "backbone", None), ViT):
        raise UserError(
            f"{source}: only our own ViT can be exported, not a timm model or a ResNet-50; the model.safetensors of a run on "
            "a ResNet-50 has timm's and torchvision's names as it is: timm:resnet50=FILE"
        )
    out = out or Path(f"{default_name(str(source))}-{to}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another place with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".export-") as beside:
        folder = Path(beside, "model")
        folder.mkdir()
        try:
            target.write(encoder, folder)
            forward = target.open(folder)
        except ImportError as error:
            extra = "transformers" if to == "huggingface" else to
            raise UserError(f"--to {to} needs {error.name}: pip install 'dinolab[{extra}]'") from error
        check = compare(encoder, forward, target.same_positions(encoder.vit.cfg), to)
        if not all(value <= target.tolerance for value in check.differences.values()):  # also when it is NaN
            raise UserError(f"--to {to} failed, nothing is written: {check}; allowed is {target.tolerance:g}")
        (folder / "README.md").write_text(model_card(encoder, source, out.name, to, str(check)))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return out, check


def compare(encoder: Encoder, forward: Forward, same_positions: bool, to: str) -> Check:
    """On random images of the model's size and of another one; at that one no more than told where positions are resampled otherwise."""
    size, patch, cfg = encoder.image_size, encoder.patch_size, encoder.vit.cfg
    own, other = (size, size), (size + 2 * patch, max(patch, size - patch))
    differences = {each: difference(encoder, forward, each) for each in (own, other)}
    if same_positions:
        return Check(differences, "")
    remark = (
        f"; at other sizes {to} resamples positions otherwise than model.antialias={str(cfg.antialias).lower()} and "
        f"model.interpolate_offset={cfg.interpolate_offset} have it: by {differences.pop(other):.1e} at {other[0]} x {other[1]} pixels"
    )
    return Check(differences, remark)


def difference(encoder: Encoder, forward: Forward, size: tuple[int, int]) -> float:
    """The largest, of any feature of random images of a size."""
    images = torch.rand(IMAGES, 3, *size, generator=torch.Generator().manual_seed(0))
    with evaluating(encoder), torch.inference_mode():
        pairs = zip(encoder(images), forward(images), strict=True)
        return max((ours - theirs).abs().max().item() for ours, theirs in pairs if ours.numel())


def default_name(source: str) -> str:
    """runs/mine -> mine; runs/mine/model.safetensors -> mine; dino_vits16.pth -> dino_vits16; hf:facebook/dinov2-small -> dinov2-small."""
    path = Path(source.partition(":")[2] if source.startswith("hf:") else source).resolve()
    if path.name in ("model.safetensors", "model.json"):
        return path.parent.name
    return path.stem if path.suffix in (".pth", ".pt", ".safetensors") else path.name
