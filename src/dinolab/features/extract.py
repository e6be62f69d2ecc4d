"""Features of every image of a source, from any encoder: what all evaluations, and retrieval, work on.

N images, D width of a class token.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinolab.data.decode import BrokenImage, decode, read_file
from dinolab.data.loader import loaded, start_worker
from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.errors import UserError, some
from dinolab.features import cache as kept_features
from dinolab.models.encoder import evaluating

log = logging.getLogger(__name__)
NAMED = 5  # broken images that the warning names; the rest are counted
FLUSH = 4096  # rows that stay on the device before they are copied: each copy waits for it
DIGEST = 16  # bytes
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

TOKENS = ("cls", "patches", "both")  # the class token, the mean of the patches, or one after the other
PRECISIONS = ("fp32", "bf16")

# position in the source, uint8 (3, H, W) or None, digest of the file, why there is no image
Item = tuple[int, Tensor | None, bytes, str]


@dataclass(frozen=True)
class FeatureSet:
    """Features of the images that could be read, in the source's order; all on the CPU."""

    blocks: list[Tensor]  # class tokens after each of the last blocks, first to last, float32 (N, D) each
    patches: Tensor  # mean of the last block's patches, float32 (N, D); (N, 0) if it was not asked for
    labels: Tensor  # int64 (N,), -1 without labels
    kept: Tensor  # int64 (N,), positions in the source
    digests: Tensor  # uint8 (N, 16), BLAKE2b of the files' contents: equal for identical files alone

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, positions: Tensor) -> "FeatureSet":
        """Of the images at these positions of the source, int64 (n,) in rising order, as if those were a source."""
        rows = torch.isin(self.kept, positions)
        kept = torch.searchsorted(positions, self.kept[rows])
        blocks = [block[rows] for block in self.blocks]
        return FeatureSet(blocks, self.patches[rows], self.labels[rows], kept, self.digests[rows])

    def matrix(self, tokens: str = "cls", blocks: int = 1, index: Tensor | None = None) -> Tensor:
        """A row for each image, or for those of `index`, float32 (N, ·): class tokens of the last `blocks` blocks, mean of
        the last patches, or both."""
        parts = [*self.blocks[-blocks:], self.patches] if tokens == "both" else self.blocks[-blocks:]
        parts = [self.patches] if tokens == "patches" else parts
        parts = parts if index is None else [part[index] for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def extract(
    encoder: Any,
    source: Source,
    size: int | tuple[int, int],
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
    blocks: int = 1,
    patches: bool = False,
    precision: str = "fp32",
    cache: Path | None = None,
) -> FeatureSet:
    """Features of all images, as evaluation views of `size` (a side, or height and width, in pixels).

    The encoder is moved to `device`; `workers` processes load images. Of an encoder with fewer blocks than `blocks`, all
    are taken. `precision` is fp32 or bf16 (autocast); features are kept as float32. `cache` is a folder that keeps them
    until weights, images, size or precision change; features with more blocks, or patches, serve for fewer. Unreadable
    images are left out, with one warning. Raises UserError if not one can be read, or a process that loads has died.
    """
    encoder.to(device)
    height, width = (size, size) if isinstance(size, int) else size
    file = found = None
    if cache:
        key = kept_features.key(encoder, source, f"{height} x {width}, {precision}")
        file = cache / f"{key}.safetensors"
        found = kept_features.read(file)
    most, with_patches = json.loads(found[1]["asked"]) if found else (0, False)
    if found is None or blocks > most or patches > with_patches:  # then what is there is computed too, and replaced
        most, with_patches = max(blocks, most), patches or with_patches
        loader = DataLoader(
            Images(source.paths, (height, width)),
            batch_size,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=start_worker,
            pin_memory=torch.device(device).type == "cuda",
        )
        found = run_encoder(encoder, source, loader, torch.device(device), most, with_patches, precision, progress)
        if file:
            kept_features.write(file, *found)
    tensors, notes = found

    broken = json.loads(notes["broken"])
    if broken:
        count = f"{len(broken)} of {len(source)} images cannot be read and are left out"
        log.warning("%s: %s: %s", source.name, count, some(broken, NAMED))
    kept = tensors["kept"]
    labels = torch.full((len(kept),), -1) if source.labels is None else torch.as_tensor(source.labels).long()[kept]
    tokens = [tensors[name] for name in sorted(name for name in tensors if name.startswith("block"))][-blocks:]
    mean = tensors["patches"] if patches else tensors["patches"][:, :0]
    return FeatureSet(tokens, mean, labels, kept, tensors["digests"])


def run_encoder(
    encoder: Any,
    source: Source,
    loader: DataLoader,
    device: torch.device,
    blocks: int,
    patches: bool,
    precision: str,
    progress: bool,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a FeatureSet by name, but for the labels, and notes: what the cache keeps."""
    rows = Rows(len(source))
    kept: list[int] = []
    digests: list[bytes] = []
    broken: list[str] = []
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with evaluating(encoder), bf16, Progress(*COLUMNS, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task(f"features of {escape(source.name)}", total=len(source))
        for positions, images, contents, reasons in loaded(loader, f"fewer workers (now {loader.num_workers})"):
            if positions:
                images = images.to(device, non_blocking=device.type == "cuda")
                outs = [encoder(images)] if blocks == 1 else encoder.layers(images, blocks)
                last = outs[-1].patches if patches else outs[-1].patches[..., :0]
                rows.add([*(out.cls for out in outs), last.float().mean((1, 2))])
            kept += positions
            digests += contents
            broken += reasons
            bar.advance(task, len(positions) + len(reasons))
        rows.flush()
    if not kept:
        raise UserError(f"{source.name}: none of its {len(source)} images can be read; {'; '.join(broken[:1])}")
    *tokens, mean = (matrix[: len(kept)] for matrix in rows.matrices)
    named = {f"block{i:02d}": matrix for i, matrix in enumerate(tokens)}
    contents = torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST).copy())
    notes = {"broken": json.dumps(broken), "asked": json.dumps([blocks, patches])}
    return {**named, "patches": mean, "kept": torch.tensor(kept), "digests": contents}, notes


def refuse_infinite(*features: Tensor) -> None:
    if not all(some.isfinite().all() for some in features):
        raise UserError("the encoder's features are not finite numbers: its training has diverged; take an earlier one")


class Rows:
    """Matrices that come some rows at a time and leave the device some thousand at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self.matrices: list[Tensor] = []
        self.held: list[list[Tensor]] = []

    def add(self, parts: list[Tensor]) -> None:
        """Some rows of each matrix."""
        self.held.append(parts)
        if sum(len(first) for first, *_ in self.held) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        columns = [torch.cat(parts).float().cpu() for parts in zip(*self.held)]
        if not self.matrices:  # allocated once: a million rows are too many to copy
            with torch.inference_mode(False):  # or nothing could be trained on them
                self.matrices = [torch.empty(self.most, column.shape[1]) for column in columns]
        for matrix, column in zip(self.matrices, columns):
            matrix[self.count : self.count + len(column)] = column
        self.count += len(columns[0]) if columns else 0
        self.held.clear()


class Images(Dataset[Item]):
    def __init__(self, paths: list[str], size: tuple[int, int]) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Item:
        path = self.paths[position]
        try:
            data = read_file(path)
            image = eval_view(decode(data, path), self.size)
        except BrokenImage as error:
            return position, None, b"", str(error)
        return position, torch.as_tensor(image), hashlib.blake2b(data, digest_size=DIGEST).digest(), ""


def collate(items: list[Item]) -> tuple[list[int], Tensor, list[bytes], list[str]]:
    """Positions of the readable images (b,), those images (b, 3, H, W), their digests, and what is wrong with the others."""
    good = [(position, image, digest) for position, image, digest, _ in items if image is not None]
    images = torch.stack([image for _, image, _ in good]) if good else torch.empty(0)
    reasons = [reason for _, image, _, reason in items if image is None]
    return [position for position, _, _ in good], images, [digest for _, _, digest in good], reasons
