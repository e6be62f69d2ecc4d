"""The vocabulary of visual words that OBoW (arXiv 2012.11552) learns from: a queue of features of earlier images.

Shapes: B images, h x w places of a feature map, N of them that are used, D width of a feature, K words; m runs over micro-batches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinolab.parallel import gather_over_ranks, rank, world

DECAY = 0.99  # of the running mean of the distances to the nearest word, as in the published code
START = 0.5  # first value of this mean, as in the published code
NEIGHBOURHOOD = 3  # a word is the mean over so many places in height and width
GOLDEN = 2654435769  # 2^32 times the golden ratio's fraction


class Vocabulary(nn.Module):
    """K visual words of one level of features, a queue.

    The published code takes this step's distances into their running mean before it assigns words, this one after it, as it does
    with everything else that a step changes.
    """

    words: Tensor  # (K, D), random numbers until enough images have been seen
    distance: Tensor  # (), running mean of the squared distance of a place's feature to the nearest word
    entered: Tensor  # int64 (), words that have entered; the next one goes to this place modulo K

    def __init__(self, number: int, dim: int, sharpness: float):
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("words", torch.randn(number, dim))
        self.register_buffer("distance", torch.tensor(START))
        self.register_buffer("entered", torch.zeros((), dtype=torch.int64))

    def candidates(self, map_BhwD: Tensor, first: Tensor) -> Tensor:
        """A new word (B, D) of each image: the mean over the neighbourhood of one of its places.

        Consecutive images of the run take places that follow the multiples of the golden ratio, which are spread evenly (Weyl). So
        nothing is drawn, and the words are the same for any number of micro-batches and ranks.

        Args:
            first: int64 (), the number in the run of the first image.
        """
        sides = [min(NEIGHBOURHOOD, side) for side in map_BhwD.shape[1:3]]
        means_BND = F.avg_pool2d(map_BhwD.movedim(-1, 1), sides, 1).flatten(2).transpose(1, 2)
        images_B = torch.arange(len(means_BND), device=means_BND.device)
        # in 2^32nds of the places; where the product overflows, its low bits are still right
        share_B = (first + images_B) * GOLDEN & 0xFFFFFFFF
        places_B = share_B * means_BND.shape[1] >> 32
        return means_BND.take_along_dim(places_B[:, None, None], 1)[:, 0]

    def new_words(self, maps: list[Tensor]) -> Tensor:
        """The step's new words (n, D), of all ranks and in the order of its images, given this rank's maps (B_m, h, w, D)."""
        found, first = [], self.entered
        for x in maps:
            found.append(gather_over_ranks(self.candidates(x, first + rank() * len(x))))
            first = first + world() * len(x)
        return torch.cat(found)

    def update(self, words: Tensor, distance: Tensor) -> None:
        """Replace the oldest words by a step's new ones (n, D), n at most K, and follow its mean distance ()."""
        places = (self.entered + torch.arange(len(words), device=words.device)) % len(self.words)
        self.words.index_copy_(0, places, words.to(self.words.dtype))
        self.entered += len(words)
        self.distance.lerp_(distance.to(self.distance.dtype), 1 - DECAY)
