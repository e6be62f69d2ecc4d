"""How images are fitted to a size, cut to boxes, and put into batches where their sizes differ."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dinolab.data.types import Source
from dinolab.data.views import eval_view
from dinolab.features.extract import extract
from dinolab.features.pixels import PixelEncoder
from dinolab.features.views import Boxes, View, size_within


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_a_view_within_a_size_is_pillow_s_thumbnail() -> None:
    for height, width in [(40, 60), (61, 37), (7, 100), (30, 30), (33, 20), (20, 10), (3, 300)]:
        for size in [(20, 20), (24, 33), (50, 31)]:
            image = Image.new("RGB", (width, height))
            image.thumbnail((size[1], size[0]))
            assert size_within(height, width, *size) == (image.height, image.width), (height, width, size)
    image = photo(61, 37)
    small = Image.fromarray(image)
    small.thumbnail((20, 20), Image.Resampling.BICUBIC, reducing_gap=None)
    view = View((20, 20), "within")(0, image)
    assert np.abs(view.transpose(1, 2, 0).astype(int) - np.array(small)).max() <= 2


def test_squashed_and_centred() -> None:
    image = photo(61, 37)
    squashed = Image.fromarray(image).resize((20, 24), Image.Resampling.BICUBIC)
    found = View((24, 20), "squash")(0, image).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.array(squashed)).max() <= 2
    assert (View((16, 16))(0, image) == eval_view(image, 16)).all()


@pytest.mark.parametrize(("box", "part"), [((2.4, 3.6, 9, 11), (4, 11, 2, 9)), ((-5, 30, 12, 99), (30, 61, 0, 12))])
def test_boxes(box: tuple[float, ...], part: tuple[int, ...]) -> None:
    top, bottom, left, right = part
    image = photo(61, 37)
    cut = Boxes(((0, 0, 1, 1), box))(1, image)
    assert (cut == image[top:bottom, left:right]).all()


def test_images_of_different_sizes_share_a_batch_and_keep_their_order(tmp_path) -> None:
    sizes = [(40, 60), (60, 40), (40, 60), (10, 10), (60, 40)]
    for number, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photo(*size, seed=number))
    source = Source("five", [str(tmp_path / f"{number}.png") for number in range(5)], None, [])
    view = View((32, 32), "within")
    together, alone = (
        extract(PixelEncoder(), source, view, batch_size, progress=False, patches=True) for batch_size in (64, 1)
    )
    assert torch.equal(together.matrix(), alone.matrix()) and together.kept.tolist() == [*range(5)]
    assert len({tuple(row) for row in together.matrix().tolist()}) == 5
    keys = {one.key() for one in (view, View((32, 32)), View((32, 32), "within", Boxes(((0, 0, 1, 1),))))}
    assert len(keys) == 3
