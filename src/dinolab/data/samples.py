"""The samples of a run: each micro-batch as a function of its number, whichever process makes it.

Sample n of the run is a pure function of (seed, n): its image is the next of the epoch's permutation, and its crops and masks are
drawn from its own generator. So batches depend neither on the number of workers nor on where a run was resumed.
B images in a (micro-)batch, N patches of a global crop.
"""

import os

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from dinolab import options
from dinolab.data import draws
from dinolab.data.crops import Crops, draw_crops, places, reduction, shrunk
from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file
from dinolab.data.device_views import Photos, tabulate
from dinolab.data.masks import block_mask, mask_counts
from dinolab.data.types import Needs, Source, Views
from dinolab.data.views import make_views
from dinolab.errors import UserError

TRIES = 10  # images drawn in place of an unreadable one before the run gives up
NOTHING = Needs()  # beside the crops


def micro_batch(cfg: options.Config, world: int = 1) -> int:
    """Images of one forward and backward on each of `world` devices. Raises UserError where these numbers do not divide."""
    batch, micro = cfg.optim.batch_size, cfg.run.micro_batch
    if batch % world:
        raise UserError(f"optim.batch_size={batch} cannot be shared out equally over {world} processes")
    share = batch // world
    if micro == options.AUTO:
        raise UserError("run.micro_batch=auto is for dinolab train and plan; give a number here")
    if micro and share % micro:
        whose = f"a process's share, {share} of" if world > 1 else ""
        raise UserError(" ".join(f"run.micro_batch={micro} does not divide {whose} optim.batch_size={batch}".split()))
    return micro or share


class MicroBatches(Dataset):
    """Item u is the u-th micro-batch of the run, of those that are this rank's."""

    def __init__(
        self,
        source: Source,
        cfg: options.Config,
        share: tuple[int, int] = (0, 1),
        on_device: bool = False,
        needs: Needs = NOTHING,
    ) -> None:
        self.seed, self.views, self.batch_size = cfg.seed, cfg.views, cfg.optim.batch_size
        self.on_device, self.needs, self.channels = on_device, needs, source.pixels.channels
        self.rank, self.world = share
        self.micro = micro_batch(cfg, self.world)
        self.per_step = self.batch_size // (self.world * self.micro)
        if not len(source):
            raise UserError(f"{source.name} holds no images")
        if needs.labels and source.labels is None:
            raise UserError(f"{source.name} has no labels, and method={cfg.method} needs them")
        self.labels = source.labels if needs.labels else None
        # One block of bytes instead of a list of strings: workers that count references to a million strings would
        # each end up with a copy of their own.
        names = [os.fsencode(path) for path in source.paths]
        self.names = np.frombuffer(b"".join(names), np.uint8)
        self.ends = np.cumsum([0, *(len(name) for name in names)])
        self.epoch, self.order = -1, np.empty(0, np.int64)

    def path(self, index: int) -> str:
        return os.fsdecode(self.names[self.ends[index] : self.ends[index + 1]].tobytes())

    def image_of(self, number: int) -> int:
        """Position in the source of the run's sample `number`."""
        size = len(self.ends) - 1
        epoch, place = divmod(number, size)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, draws.order(self.seed, epoch, size)
        return int(self.order[place])

    def __getitem__(self, u: int) -> Views | Photos | UserError:
        try:
            return self.build(u)
        except UserError as error:  # returned, because DataLoader would turn a raised one into a page of traceback
            return error

    def build(self, u: int) -> Views | Photos:
        step, part = divmod(u, self.per_step)
        place = (part * self.world + self.rank) * self.micro  # of the first image in the step's batch
        first = step * self.batch_size + place
        made = 0 if self.on_device else self.micro  # images whose crops are made here
        sizes = (2, self.views.global_size), (self.views.locals, self.views.local_size)
        global_crops, local_crops = (_empty(number, made, self.channels, side, side) for number, side in sizes)
        photos: list[tuple[np.ndarray, Crops]] = []
        extra: list[np.ndarray] = []
        taken_from: list[np.ndarray] = []
        indices = torch.empty(self.micro, dtype=torch.int64)
        broken: list[tuple[int, str]] = []
        counts, masks = self.empty_masks(step, place)
        for b in range(self.micro):
            rng = draws.rng(self.seed, draws.SAMPLE, first + b)
            indices[b], image, crops = self.read(self.image_of(first + b), rng, broken)
            if self.on_device:
                photos.append((shrink(image, crops, self.views), crops))
            else:
                make_views(image, crops, [*global_crops.numpy()[:, b], *local_crops.numpy()[:, b]])
            if masks is not None:
                for g in range(2):
                    masks.numpy()[g, b] = block_mask(self.needs.grid, self.needs.grid, counts[g, b], rng)
            if self.needs.extra:
                extra.append(self.needs.extra(self.in_full(int(indices[b]), image, crops), rng))
            if self.needs.places:
                taken_from.append(places(crops))
        rest = {
            "masks": masks,
            "masked": None if masks is None else torch.from_numpy(np.flatnonzero(masks.numpy())),
            "indices": indices,
            "broken": broken,
            "labels": None if self.labels is None else torch.from_numpy(self.labels[indices.numpy()]),
            "extra": torch.from_numpy(np.stack(extra)) if extra else None,
            "places": torch.from_numpy(np.stack(taken_from)) if taken_from else None,
        }
        if self.on_device:
            return Photos(*pack(photos), (self.views.global_size, self.views.local_size), **rest)  # type: ignore[arg-type]
        return Views(global_crops, local_crops, **rest)  # type: ignore[arg-type]

    def in_full(self, index: int, image: np.ndarray, crops: Crops) -> np.ndarray:
        """The image at `index` in its full size, given how it was decoded for its crops."""
        path = self.path(index)
        return image if shrunk(crops, image.shape[0], image.shape[1]) == 1 else decode(read_file(path), path)

    def empty_masks(self, step: int, place: int) -> tuple[np.ndarray, torch.Tensor | None]:
        """How many patches the micro-batch's global crops have masked, int64 (2, B), and masks to fill, bool (2, B, N)."""
        if self.needs.masks is None:
            return np.empty((2, 0), np.int64), None
        patches = self.needs.grid**2
        counts = mask_counts(self.seed, step, self.batch_size, patches, self.needs.masks)
        return counts[:, place : place + self.micro], _empty(2, self.micro, patches, dtype=torch.bool)

    def read(
        self, index: int, rng: np.random.Generator, broken: list[tuple[int, str]]
    ) -> tuple[int, np.ndarray, Crops]:
        """The image at `index`, and the draws for its crops, which determine how large it must be decoded.

        If it is unreadable, the first readable one of the next draws; unreadable ones are added to `broken`.
        """
        for _ in range(TRIES):
            try:
                data = read_file(self.path(index))
                if size := jpeg_size(data):
                    crops = draw_crops(*size, self.views, rng)
                    image = decode(data, self.path(index), reduction(crops, self.views))
                    if shrunk(crops, image.shape[0], image.shape[1]):
                        return index, image, crops
                else:
                    image = decode(data, self.path(index))
                # no JPEG, or one whose header and pixels disagree
                return index, image, draw_crops(image.shape[0], image.shape[1], self.views, rng)
            except BrokenImage as error:
                broken.append((index, error.reason))
                last = error
            index = int(rng.integers(len(self.ends) - 1))
        raise UserError(f"{TRIES} images in a row cannot be read, the last of them {last}: look into data.path")


def shrink(image: np.ndarray, crops: Crops, cfg: options.Views) -> np.ndarray:
    """An image that was decoded at full size, shrunk to the size that a JPEG would have been decoded at: there is less to transfer."""
    factor = reduction(crops, cfg)
    if factor == 1 or image.shape[:2] != tuple(crops.size):
        return image
    down, right = (-side % factor for side in image.shape[:2])
    whole = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(whole, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)


def pack(photos: list[tuple[np.ndarray, Crops]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pixels, sizes and crops of Photos."""
    images, crops = zip(*photos)
    sizes = np.array([image.shape[:2] for image in images])
    pixels = _empty(3 * int(sizes.prod(axis=1).sum()))
    np.concatenate([image.reshape(-1) for image in images], out=pixels.numpy())
    return pixels, torch.from_numpy(sizes), torch.from_numpy(tabulate(crops, sizes))


def _empty(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """A tensor that a worker fills in memory that it shares with the main process."""
    tensor = torch.empty(shape, dtype=dtype)
    return tensor.share_memory_() if get_worker_info() else tensor
