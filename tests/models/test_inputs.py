"""What an encoder may be called with, and what it refuses in words."""

import numpy as np
import pytest
import torch
from PIL import Image

from dinolab.errors import UserError
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.inputs import to_batch
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels

IMAGES = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
ARRAYS = [image.permute(1, 2, 0).numpy() for image in IMAGES]


@pytest.fixture(scope="module")
def encoder() -> BackboneEncoder:
    return BackboneEncoder(ViT(Model(dim=16, depth=1, heads=2, patch_size=8), 16)).eval()


@pytest.mark.parametrize(
    "images",
    [
        np.stack(ARRAYS),
        IMAGES.numpy(),
        ARRAYS,
        [Image.fromarray(array) for array in ARRAYS],
        tuple(IMAGES),
        [IMAGES[:1], IMAGES[1:]],
        np.stack(ARRAYS).astype(np.float32) / np.float32(255),
        np.stack(ARRAYS) / 255,
    ],
)
def test_arrays_pillow_and_lists_are_tensors(encoder, images) -> None:
    for of in (encoder, PixelEncoder()):
        for found, expected in zip(of(images), of(IMAGES)):
            assert torch.equal(found, expected)


def test_one_image_is_a_batch_of_one(encoder) -> None:
    for image in (ARRAYS[0], Image.fromarray(ARRAYS[0])):
        assert torch.equal(encoder(image).cls, encoder(IMAGES[:1]).cls)


def test_modes_of_pillow() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (to_batch(clear, RGB) == 255).all()
    assert to_batch(Image.new("L", (8, 6), 7), RGB).shape == (1, 3, 6, 8)
    with pytest.raises(UserError, match="mode F"):
        to_batch(Image.new("F", (8, 8)), RGB)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(1, 3, 8, 8) * 255, "divide by 255"),
        (np.full((8, 8, 3), 200.0), "divide by 255"),
        ((torch.rand(1, 3, 8, 8) - 0.5) / 0.25, "undo the normalisation"),
        (torch.full((1, 3, 8, 8), torch.nan), "nan"),
        (torch.rand(1, 3, 8, 8) * 1e6, r"in \[0, 1\]"),
        (torch.rand(3, 8, 8), "shape"),
        (np.zeros((8, 8)), "shape"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "several sizes"),
        (np.array([["a"]]), "arrays of numbers"),
        ([], "not nothing"),
        ("photo.jpg", "not a str"),
        (None, "not a NoneType"),
    ],
)
def test_what_is_refused(encoder, images, words: str) -> None:
    with pytest.raises(UserError, match=words):
        encoder(images)


def test_an_overshoot_of_interpolation_is_no_mistake(encoder) -> None:
    encoder(torch.rand(1, 3, 16, 16) * 1.3 - 0.15)


def test_other_channels() -> None:
    four = Pixels(4, 65535, (0.5,) * 4, (0.5,) * 4)
    assert to_batch(np.zeros((8, 6, 4), np.uint16), four).shape == (1, 4, 8, 6)
    with pytest.raises(UserError, match="divide by 65535"):
        to_batch(np.full((8, 6, 4), 40000.0), four)
