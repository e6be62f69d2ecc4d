"""Features of every image of a source, from any encoder: what evaluations, pictures and retrieval work on.

N images, D width of a class token. With several processes each computes its share of the batches, and all get all features.
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinolab.data.loader import loaded, make_loader
from dinolab.data.sources.curated import folder_of
from dinolab.data.storage import describe as location
from dinolab.data.types import Source
from dinolab.errors import UserError, some
from dinolab.features import cache as kept_features
from dinolab.features.loading import Groups, Images, Note, collate, digest
from dinolab.features.stored import Tokens, find_stored
from dinolab.features.views import View
from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.parallel import collect, rank, world
from dinolab.precision import autocast, choose_precision
from dinolab.progress import progress_bar

log = logging.getLogger(__name__)
NAMED = 5  # broken images that the warning names; the rest are counted
FLUSH = 4096  # rows that stay on the device before they are copied: each copy waits for it

Found = tuple[dict[str, Tensor], dict[str, str]]  # the tensors of a FeatureSet by name, without the labels, and notes


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
        """The features of the images at some positions of the source, as if those were a source of their own.

        Args:
            positions: int64 (n,), rising.
        """
        rows = torch.isin(self.kept, positions)
        kept = torch.searchsorted(positions, self.kept[rows])
        blocks = [block[rows] for block in self.blocks]
        return FeatureSet(blocks, self.patches[rows], self.labels[rows], kept, self.digests[rows])

    def matrix(self, tokens: str = "cls", blocks: int = 1, index: Tensor | None = None) -> Tensor:
        """A row of features for each image, float32 (N, width).

        Args:
            tokens: "cls": class tokens of the last `blocks` blocks; "patches": the mean of the last block's patches; "both".
            index: rows to take, int64 (n,); all by default.
        """
        parts = [*self.blocks[-blocks:], self.patches] if tokens == "both" else self.blocks[-blocks:]
        parts = [self.patches] if tokens == "patches" else parts
        parts = parts if index is None else [part[index] for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def joined(sets: list[FeatureSet]) -> FeatureSet:
    """The rows of all sets, one set after the other; all are of the same encoder, blocks and patches."""
    if len(sets) == 1:
        return sets[0]
    blocks = [torch.cat(parts) for parts in zip(*(one.blocks for one in sets), strict=True)]
    others = ("patches", "labels", "kept", "digests")
    return FeatureSet(blocks, *(torch.cat([getattr(one, name) for one in sets]) for name in others))


def extract(
    encoder: Any,
    source: Source,
    size: int | tuple[int, int] | View,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    workers: int = 0,
    progress: bool = True,
    blocks: int = 1,
    patches: bool = False,
    precision: str = "fp32",
    cache: Path | None = None,
    stored: bool = False,
) -> FeatureSet:
    """Features of all images of a source. Unreadable images are left out, with one warning.

    With several processes, all of them must call it together; each computes its share, and the result is that of one process.

    Args:
        encoder: a network, which is moved to `device`.
        size: side, or height and width, of the evaluation views in pixels; or another view.
        workers: processes that load images; 0 loads in this one.
        blocks: last blocks whose class tokens are wanted; of an encoder with fewer blocks, all are taken.
        patches: whether the mean of the last block's patches is wanted.
        precision: "fp32", "bf16" (autocast) or, without a cache, "auto"; features are float32 in any case.
        cache: folder that keeps features until weights, images, size or precision change. Features with more blocks, or patches,
            serve for fewer.
        stored: whether a curated set whose embeddings this encoder has made serves for one block without patches; with a cache, it
            always does.

    Raises:
        UserError: not one image can be read, a process that loads images has died, or a feature is no finite number.
    """
    encoder.to(device)
    size = (size, size) if isinstance(size, int) else size
    view = size if isinstance(size, View) else View(size)
    views = Views(encoder, source, view, torch.device(device), batch_size, workers, precision, progress)
    held = from_store(views) if (cache or stored) and blocks == 1 and not patches else None
    found = held or from_cache(views, cache, blocks, patches)
    features = as_feature_set(source, *found, blocks, patches)
    for tokens in (*features.blocks, features.patches):
        refuse_infinite(tokens, encoder, lambda row: location(source.paths[features.kept[row]]))
    return features


def from_store(views: "Views") -> Found | None:
    """Features with one block: a curated set's embeddings, and what it lacks, which alone is computed.

    None where the source is no curated set, or this encoder has not made its embeddings.
    """
    source = views.source
    if folder_of(source) is None:
        return None
    held = find_stored(views.encoder, source, views.view, views.precision)
    lacking = np.setdiff1d(np.arange(len(source)), held.kept.numpy() if held else [])
    lacking = np.unique(np.concatenate(collect(lacking)))  # processes on other machines may see other dates of files
    if held is None or len(lacking) == len(source):
        return None
    broken: list[str] = []
    held = held.without(torch.from_numpy(lacking))
    if len(lacking):
        part = replace(source, paths=[source.paths[position] for position in lacking], labels=None)
        tensors, broken = replace(views, source=part).collected(1, False)
        if tensors:
            kept = torch.from_numpy(lacking)[tensors["kept"]]
            held = held.joined(Tokens(tensors["block00"], kept, tensors["digests"]))
    if rank() == 0:
        counts = f"{len(source) - len(lacking):,} class tokens are read from the set, {len(lacking):,} are computed"
        log.info("%s: %s", source.name, counts)
    whole = {"block00": held.cls, "patches": held.cls[:, :0], "kept": held.kept, "digests": held.digests}
    return whole, {"broken": json.dumps(broken), "asked": json.dumps([1, False])}


def from_cache(views: "Views", cache: Path | None, blocks: int, patches: bool) -> Found:
    """Features that a file of the cache holds; where it lacks some of them, all are computed, and it is replaced."""
    file = found = None
    if cache:
        key = kept_features.key(views.encoder, views.source, f"{views.view.key()}, {views.precision}")
        file = cache / f"{key}.safetensors"
        found = kept_features.read(file)
    most, with_patches = json.loads(found[1]["asked"]) if found else (0, False)
    missing = found is None or blocks > most or patches > with_patches
    if any(collect(missing)):  # then the blocks and patches that the file holds are computed again
        most, with_patches = max(blocks, most), patches or with_patches
        most, with_patches = (max(values) for values in zip(*collect((most, with_patches))))
        found = views.all_features(most, with_patches)
        if file and rank() == 0:
            kept_features.write(file, *found)
    assert found is not None
    return found


def as_feature_set(
    source: Source, tensors: dict[str, Tensor], notes: dict[str, str], blocks: int, patches: bool
) -> FeatureSet:
    broken = json.loads(notes["broken"])
    if broken and rank() == 0:
        count = f"{len(broken)} of {len(source)} images cannot be read and are left out"
        log.warning("%s: %s: %s", source.name, count, some(broken, NAMED))
    kept = tensors["kept"]
    labels = torch.full((len(kept),), -1) if source.labels is None else torch.as_tensor(source.labels).long()[kept]
    tokens = [tensors[name] for name in sorted(name for name in tensors if name.startswith("block"))][-blocks:]
    mean = tensors["patches"] if patches else tensors["patches"][:, :0]
    return FeatureSet(tokens, mean, labels, kept, tensors["digests"])


@dataclass(frozen=True)
class Views:
    """Evaluation views of a source's images, and the encoder that they pass through."""

    encoder: Any
    source: Source
    view: View
    device: torch.device
    batch_size: int
    workers: int
    precision: str
    progress: bool
    note: Note = digest  # what is kept of every file, under the name "digests"

    def all_features(self, blocks: int, patches: bool) -> Found:
        """What the cache keeps. Raises UserError where no image can be read."""
        tensors, broken = self.collected(blocks, patches)
        if not tensors:
            count = f"none of its {len(self.source)} images can be read"
            raise UserError(f"{self.source.name}: {count}; {'; '.join(broken[:1])}")
        return tensors, {"broken": json.dumps(broken), "asked": json.dumps([blocks, patches])}

    def collected(self, blocks: int, patches: bool) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors by name for all images, none if not one can be read; and what is wrong with the others."""
        # whole batches for each process, so that every batch is the same as with a single process
        parts = np.array_split(np.arange(0, len(self.source), self.batch_size), world())
        starts = [*(int(part[0]) if len(part) else len(self.source) for part in parts), len(self.source)]
        shares = collect(self.share(starts[rank()], starts[rank() + 1], blocks, patches))
        broken = [reason for _, reasons in shares for reason in reasons]
        found = [tensors for tensors, _ in shares if tensors]
        if len(found) < 2:
            return (found or [{}])[0], broken
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}, broken

    def share(self, first: int, stop: int, blocks: int, patches: bool) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors by name for the images from `first` up to `stop`, none if not one can be read; and what is wrong with the others."""
        rows = Rows(stop - first)
        kept: list[int] = []
        digests: list[bytes] = []
        broken: list[str] = []
        on_cuda = self.device.type == "cuda"
        loader = make_loader(
            Images(self.source.paths, self.view, range(first, stop), self.note),
            self.workers if first < stop else 0,
            batch_size=self.batch_size,
            collate_fn=collate,
            pin_memory=on_cuda,
        )
        title = f"features of {self.source.name}"
        in_precision = autocast(self.device, choose_precision(self.precision, self.device))
        shown = self.progress and rank() == 0
        with evaluating(self.encoder), in_precision, progress_bar(title, stop - first, shown) as advance:
            for positions, groups, contents, reasons in loaded(loader, f"fewer workers (now {self.workers})"):
                if positions:
                    rows.add(self.compute(groups, blocks, patches))
                kept += positions
                digests += contents
                broken += reasons
                advance(len(positions) + len(reasons))
            rows.flush()
        if not kept:
            return {}, broken
        *tokens, mean = (matrix[: len(kept)] for matrix in rows.matrices)
        named = {f"block{i:02d}": matrix for i, matrix in enumerate(tokens)}
        contents = torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).reshape(len(kept), -1).copy())
        return {**named, "patches": mean, "kept": torch.tensor(kept), "digests": contents}, broken

    def compute(self, groups: Groups, blocks: int, patches: bool) -> list[Tensor]:
        """The class tokens of each block, and the mean of the patches, for the images of a batch, on the device."""
        found = []
        for _, images in groups:
            images = images.to(self.device, non_blocking=self.device.type == "cuda")
            outs = [self.encoder(images)] if blocks == 1 else self.encoder.layers(images, blocks)
            last = outs[-1].patches if patches else outs[-1].patches[..., :0]
            found.append([*(out.cls for out in outs), last.float().mean((1, 2))])
        if len(found) == 1:
            return found[0]
        order = torch.tensor([row for rows, _ in groups for row in rows]).argsort().to(self.device)
        return [torch.cat(parts)[order] for parts in zip(*found)]


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
        """Copy the rows that are still on the device."""
        columns = [torch.cat(parts).float().cpu() for parts in zip(*self.held)]
        if not self.matrices:  # allocated once: a million rows are too many to copy
            with torch.inference_mode(False):  # or nothing could be trained on them
                self.matrices = [torch.empty(self.most, column.shape[1]) for column in columns]
        for matrix, column in zip(self.matrices, columns):
            matrix[self.count : self.count + len(column)] = column
        self.count += len(columns[0]) if columns else 0
        self.held.clear()
