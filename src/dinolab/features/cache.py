"""Features kept on disk, under a name that changes with anything that they depend on."""

import hashlib
import logging
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dinolab.data.addresses import REQUESTS, stamp
from dinolab.data.headers import settings as decoding
from dinolab.data.types import Source
from dinolab.files import beside

log = logging.getLogger(__name__)
FORMAT = "features 6"  # to be raised when the same settings give other features, or another file
PLAIN = (bool, int, float, str, tuple, type(None))


def key(encoder: nn.Module, source: Source, settings: str) -> str:
    """Hash of the encoder (weights and structure), the images (locations, sizes, dates), the settings, and how images are decoded."""
    digest = hashlib.blake2b(f"{FORMAT}\n{settings}\n{decoding()}\n".encode(), digest_size=20)
    for part in parts_of(encoder):
        digest.update(part)
    digest.update("\n".join(source.paths).encode(errors="surrogateescape"))
    with ThreadPoolExecutor(REQUESTS) as pool:
        for text in pool.map(stamp_if_there, source.files()):
            digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()


def parts_of(encoder: nn.Module) -> Iterator[Any]:
    """Bytes that tell encoders apart: their structure, then the name, type, shape and values of every tensor."""
    for line in structure(encoder):
        yield line.encode()
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield raw_bytes(tensor)


def structure(encoder: nn.Module) -> Iterator[str]:
    """Lines that differ between encoders with the same weights: numbers of heads, how positions are resampled, ..."""
    for name, module in encoder.named_modules():
        plain = {k: v for k, v in vars(module).items() if k[0] != "_" and k not in ("training", "info")}
        chosen = {k: repr(v) for k, v in sorted(plain.items()) if isinstance(v, PLAIN) or is_dataclass(v)}
        yield f"{name} {type(module).__qualname__} {chosen}\n"


def stamp_if_there(file: str) -> str:
    try:
        return stamp(file)
    except OSError:  # a broken image; extraction names it in its warning
        return f"{file} is missing"


def raw_bytes(tensor: Tensor) -> Any:
    """The tensor's memory, as a buffer of uint8."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def checksum(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """CRC-32 over all names and values."""
    total = zlib.crc32(repr(sorted(notes.items())).encode())
    for name in sorted(tensors):
        total = zlib.crc32(raw_bytes(tensors[name]), zlib.crc32(name.encode(), total))
    return str(total)


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and notes as they were written; None if there is no such file, or, with a warning, if it is damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if notes.pop("crc32") == checksum(tensors, notes):
            return tensors, notes
    except (OSError, SafetensorError, LookupError, AttributeError):
        pass
    log.warning("%s: damaged; the features are computed again", file)
    return None


def write(file: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Keep tensors and notes in a file; a warning says so where that fails."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside(file) as place:
            save_file(tensors, place, {**notes, "crc32": checksum(tensors, notes)})
    except (OSError, SafetensorError) as error:  # the next evaluation then takes longer, nothing else
        log.warning("features are not kept: %s", error)
