"""Write, reload, compare; what does not compare equal is not kept."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from dinolab.errors import UserError
from dinolab.export.card import model_card
from dinolab.export.targets import TARGETS, Forward
from dinolab.models.adapters import TimmEncoder
from dinolab.models.encoder import Encoder, evaluating
from dinolab.models.weights import load

IMAGES = 3  # random ones, of each size


@dataclass(frozen=True)
class Check:
    """How far the exported model's features are from ours: the largest difference of any number, in fp32, by image size."""

    differences: dict[tuple[int, int], float]
    remark: str  # where a size was left out, why

    def __str__(self) -> str:
        sizes = ", ".join(f"{value:.1e} at {h} x {w} pixels" for (h, w), value in self.differences.items())
        return f"largest difference from dinolab's features: {sizes}{self.remark}"


def export(source: str | Path, to: str, out: Path | None = None) -> tuple[Path, Check]:
    """Write a model, anything that `load` takes and that is our ViT, for another library, into a new folder.

    `out` defaults to SOURCE-TO in the current folder. Raises UserError where the folder is not empty, a library is missing, or
    the reloaded model's features are not ours; then nothing is left behind.
    """
    encoder, target = load(source), TARGETS[to]
    if isinstance(encoder, TimmEncoder):
        raise UserError(f"{source}: only our own ViT can be exported, not a timm model")
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
        same_positions = target.antialias(encoder.vit) == encoder.vit.cfg.antialias
        check = compare(encoder, forward, same_positions, to)
        if not all(value <= target.tolerance for value in check.differences.values()):  # also when it is NaN
            raise UserError(f"--to {to} failed, nothing is written: {check}; allowed is {target.tolerance:g}")
        (folder / "README.md").write_text(model_card(encoder, source, out.name, to, str(check)))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return out, check


def compare(encoder: Encoder, forward: Forward, same_positions: bool, to: str) -> Check:
    """On random images: of the model's size, and of another one where both resample positions alike."""
    size, patch = encoder.image_size, encoder.patch_size
    sizes, remark = [(size, size), (size + 2 * patch, max(patch, size - patch))], ""
    if not same_positions:
        sizes = sizes[:1]
        remark = f"; at other sizes {to} resamples positions differently (model.antialias={encoder.vit.cfg.antialias}), not compared"
    differences = {}
    for h, w in sizes:
        images = torch.rand(IMAGES, 3, h, w, generator=torch.Generator().manual_seed(0))
        with evaluating(encoder), torch.inference_mode():
            pairs = zip(encoder(images), forward(images), strict=True)
            differences[h, w] = max((ours - theirs).abs().max().item() for ours, theirs in pairs if ours.numel())
    return Check(differences, remark)


def default_name(source: str) -> str:
    """runs/mine -> mine; runs/mine/model.safetensors -> mine; dino_vits16.pth -> dino_vits16; hf:facebook/dinov2-small -> dinov2-small."""
    path = Path(source.partition(":")[2] if source.startswith("hf:") else source).resolve()
    if path.name in ("model.safetensors", "model.json"):
        return path.parent.name
    return path.stem if path.suffix in (".pth", ".pt", ".safetensors") else path.name
