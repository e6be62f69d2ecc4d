"""Embeddings in a pipeline of Ray Data: a class for `Dataset.map_batches`. This file itself needs no Ray.

files = ray.data.read_binary_files("heap", include_paths=True)
files.map_batches(EmbedBatch, fn_constructor_args=("starter",), batch_size=64, concurrency=2, num_gpus=1)
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dinolab.data.decode import BrokenImage, decode
from dinolab.errors import UserError
from dinolab.features.inputs import Encodes, extraction_arguments, open_encoder
from dinolab.features.options import FeatureOptions
from dinolab.features.views import View
from dinolab.models.encoder import evaluating, refuse_infinite
from dinolab.precision import autocast, choose_precision


class EmbedBatch:
    """Adds to each batch the columns "embedding", float32 (N, D), and "problem", why an image cannot be read, else empty.

    The embeddings are those of `dinolab curate embed`: class tokens of the usual view. An image that cannot be read has zeros.
    """

    def __init__(
        self,
        encoder: Encodes = "starter",
        column: str = "bytes",
        size: str = "",
        precision: str = "auto",
        device: str = "auto",
        threads: int = 4,
    ) -> None:
        """Load the encoder, once in each actor.

        Args:
            column: the one that holds encoded images, as bytes.
            size, precision, device: as of `dinolab embed`.
            threads: how many images are decoded at once.

        Raises:
            UserError: there is no such encoder or device, or an option is wrong.
        """
        self.encoder = open_encoder(encoder)[1]
        how = extraction_arguments(self.encoder, FeatureOptions(size=size, precision=precision, device=device), False)
        self.encoder.to(how["device"])
        self.column, self.device, self.view = column, how["device"], View(how["size"])
        self.precision = choose_precision(how["precision"], self.device)
        self.pool = ThreadPoolExecutor(threads)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch with the two columns. Raises UserError where it lacks the column of images."""
        if self.column not in batch:
            raise UserError(f"column={self.column}: the batch has only {', '.join(batch)}")
        views, problems = zip(*self.pool.map(self.read, batch[self.column])) if len(batch[self.column]) else ((), ())
        good = [row for row, view in enumerate(views) if view is not None]
        embedding = np.zeros((len(views), self.encoder.dim), np.float32)
        if good:
            embedding[good] = self.embed(torch.stack([views[row] for row in good]))
        return {**batch, "embedding": embedding, "problem": np.array(problems, object)}

    def read(self, data: bytes) -> tuple[Tensor | None, str]:
        """An image's view, uint8 (3, h, w), or None and why it cannot be read."""
        try:
            return torch.as_tensor(self.view(0, decode(data, "the image"))), ""
        except BrokenImage as error:
            return None, error.reason

    def embed(self, views: Tensor) -> np.ndarray:
        """Class tokens float32 (n, D) of views uint8 (n, 3, h, w)."""
        with evaluating(self.encoder), autocast(self.device, self.precision):
            parts = [self.encoder(part.to(self.device)).cls for part in views.split(self.view.batch_size)]
        tokens = torch.cat(parts).float().cpu()
        refuse_infinite(tokens, self.encoder)
        return tokens.numpy()
