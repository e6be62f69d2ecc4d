"""An encoder that embeds the images of a store, and what is noted about each image. N images, D features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dinolab.curation.options import Viewed
from dinolab.data.storage import describe
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.features.duplicates import perceptual_hash
from dinolab.features.extract import Views
from dinolab.features.inputs import extraction_arguments
from dinolab.features.loading import DIGEST, digest
from dinolab.features.options import FeatureOptions
from dinolab.features.stored import preprocessing, weights_sha256
from dinolab.features.views import View
from dinolab.models.encoder import refuse_infinite

NOTE = np.dtype([("digest", f"V{DIGEST}"), ("hash", "<u8"), ("bytes", "<i8"), ("height", "<i4"), ("width", "<i4")])


def note(data: bytes, image: np.ndarray) -> bytes:
    """A NOTE of a file: its digest, pHash and sizes; `image` is uint8 (H, W, 3)."""
    facts = (digest(data, image), perceptual_hash(image), len(data), *image.shape[:2])
    return np.array([facts], NOTE).tobytes()


@dataclass(frozen=True)
class Embedder:
    """An encoder and how images are shown to it, the same for a whole store."""

    name: str  # by which it can be loaded again
    network: Any
    device: torch.device
    size: tuple[int, int]  # height and width of the images, in pixels
    precision: str
    workers: int
    progress: bool

    def facts(self) -> dict[str, Any]:
        """What embeddings depend on, for the manifest."""
        encoder = {"name": self.name, "sha256": weights_sha256(self.network)}
        return {"encoder": encoder, "preprocessing": preprocessing(View(self.size), self.precision)}

    def embed(self, source: Source, first: int, stop: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Embeddings float16 (N, D) of the images from `first` up to `stop`, with D = 0 if none can be read, and columns of facts."""
        how = (self.device, View(self.size).batch_size, self.workers, self.precision, self.progress)
        tensors, reasons = Views(self.network, source, View(self.size), *how, note=note).share(first, stop, 1, False)
        kept = tensors["kept"].numpy() - first if tensors else np.empty(0, np.int64)
        lost = np.setdiff1d(np.arange(stop - first), kept)
        features = tensors["block00"] if tensors else torch.empty(0, 0)
        refuse_infinite(features, self.network, lambda row: describe(source.paths[first + kept[row]]))
        vectors = np.zeros((stop - first, features.shape[1]), np.float16)
        with np.errstate(over="ignore"):
            vectors[kept] = features.numpy()
        if not np.isfinite(vectors).all():
            raise UserError(f"encoder={self.name}: its features are larger than 65,504 and do not fit into 16 bits")
        notes = np.zeros(stop - first, NOTE)
        if tensors:
            notes[kept] = tensors["digests"].numpy().view(NOTE)[:, 0]
        problems = np.full(stop - first, "", object)
        problems[lost] = reasons
        facts = {name: np.ascontiguousarray(notes[name]) for name in ("hash", "bytes", "height", "width")}
        return vectors, {"problem": problems, "digest": [bytes(one) for one in notes["digest"]], **facts}


def make_embedder(name: str, network: Any, options: Viewed, progress: bool) -> Embedder:
    """An embedder for an opened encoder, which is moved to the device."""
    viewed = {name: getattr(options, name) for name in ("size", "precision", "device", "workers")}
    how = extraction_arguments(network, FeatureOptions(**viewed), progress)
    network.to(how["device"])
    return Embedder(name, network, how["device"], how["size"], how["precision"], how["workers"], progress)
