"""Labels of a clip's first frame carried to its later frames by the similarity of patch features.

Jabri et al. (arXiv 2006.14613), with the settings of DINO (arXiv 2104.14294, section 4.2.2) and of DINOv3 (arXiv 2508.10104).

h x w patches of a frame, D features, T frames of context, C channels: the background and each object.
"""

import math
from collections import deque
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinolab.precision import quick_products

TILE = 16  # patches: similarities are computed for TILE x TILE patches at a time


class Rule(NamedTuple):
    """How the labels of a patch follow from the patches that are most like it."""

    frames: int = 7  # of context before the current one; the first frame is always there
    neighbourhood: float = 12  # patches: how far away a similar patch may be; 0 for any distance
    circle: bool = False  # whether that is a radius, or the most rows and the most columns
    topk: int = 5  # similar patches, from all frames of context together
    temperature: float = 0.1  # divides the cosines


class Propagation:
    """The labels of one clip, from frame to frame."""

    def __init__(self, features: Tensor, labels: Tensor, rule: Rule) -> None:
        """
        Args:
            features: of the first frame, float (h, w, D).
            labels: of the first frame, float (h, w, C), the share of each channel in a patch.
        """
        self.rule = rule
        self.first = F.normalize(features, dim=-1), labels
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=rule.frames)

    def step(self, features: Tensor) -> Tensor:
        """The labels of the next frame, (h, w, C), from its features (h, w, D)."""
        query = F.normalize(features, dim=-1)
        context, labels = (torch.stack(parts) for parts in zip(self.first, *self.recent))
        found = propagate(query, context, labels, self.rule)
        self.recent.append((query, found))
        return found


@quick_products()
def propagate(query: Tensor, context: Tensor, labels: Tensor, rule: Rule) -> Tensor:
    """Labels of a frame from those of the frames of its context, (h, w, C).

    The weight of a patch of the context is exp(cosine / temperature). It is 0 outside of the neighbourhood, and for all but the
    `topk` patches with the greatest cosines; patches that are as similar as the last of these count as well. The weights of a query
    sum to 1. Similarities are held for TILE x TILE queries at a time, and for the part of the context within their reach.

    Args:
        query: features of the frame, of length 1, (h, w, D).
        context: features of length 1, (T, h, w, D).
        labels: of the context, (T, h, w, C).
    """
    h, w, _ = query.shape
    found = labels.new_empty(h, w, labels.shape[-1])
    reach = math.floor(rule.neighbourhood) or max(h, w)
    for top in range(0, h, TILE):
        for left in range(0, w, TILE):
            tile = slice(top, min(top + TILE, h)), slice(left, min(left + TILE, w))
            window = tuple(slice(max(0, s.start - reach), min(s.stop + reach, n)) for s, n in zip(tile, (h, w)))
            keys, values = context[:, *window], labels[:, *window]
            similarity = query[tile].flatten(0, 1) @ keys.flatten(0, 2).T
            if rule.neighbourhood:
                frames = similarity.view(len(similarity), len(keys), -1)
                frames.masked_fill_(is_far(tile, window, rule, query.device)[:, None], -torch.inf)
            least = similarity.topk(min(rule.topk, similarity.shape[1])).values[:, -1:]
            weights = F.softmax((similarity / rule.temperature).masked_fill_(similarity < least, -torch.inf), 1)
            found[tile] = (weights @ values.flatten(0, 2)).view(found[tile].shape)
    return found


def is_far(tile: tuple[slice, ...], window: tuple[slice, ...], rule: Rule, device: torch.device) -> Tensor:
    """Whether a patch of the window is out of the neighbourhood of one of the tile, bool (patches of the tile, of the window)."""
    places = [
        (torch.arange(a.start, a.stop, device=device), torch.arange(b.start, b.stop, device=device))
        for a, b in zip(tile, window)
    ]
    rows, columns = ((of_tile[:, None] - of_window).abs() for of_tile, of_window in places)
    down, across = rows[:, None, :, None], columns[None, :, None, :]
    distance = down.square().add(across.square()).sqrt() if rule.circle else torch.maximum(down, across)
    return (distance > rule.neighbourhood).flatten(2).flatten(0, 1)


def to_pixels(labels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """The channel of each pixel, uint8 of this height and width, from labels on the grid of patches (h, w, C).

    Each channel is enlarged, and stretched so that its least value is 0 and its greatest 1. A pixel belongs to the channel with the
    greatest value, the first of several. A channel that is the same everywhere stays as it is, so an object that no patch is
    labelled with has no pixel.

    Args:
        mode: "bilinear" or "nearest".
    """
    best = torch.full(size, -torch.inf, device=labels.device)
    found = torch.zeros(size, dtype=torch.uint8, device=labels.device)
    aligned = None if mode == "nearest" else False
    for number, channel in enumerate(labels.unbind(-1)):  # one at a time: 256 channels of an image take much memory
        large = F.interpolate(channel[None, None], size, mode=mode, align_corners=aligned)[0, 0]
        low, high = large.aminmax()
        if high > low:
            large = (large - low) / (high - low)
        found[large > best] = number
        best = torch.maximum(best, large)
    return found


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask, uint8 (H, W), in another height and width: each pixel has the value of the nearest one."""
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
