"""Images named on the command line: found in order, sized to whole patches, with their masks."""

import cv2
import numpy as np
import pytest
import torch

from dinolab.errors import UserError
from dinolab.visuals.images import (
    Found,
    as_fractions,
    find_images,
    fit_patches,
    read_mask,
    read_picture,
    spread,
    usual_size,
)
from tests.visuals.planted import ByColour


def test_folders_are_searched_in_the_order_of_numbers(tmp_path):
    for name in ("frame10.png", "frame2.jpg", "notes.txt", ".hidden.png", "deep/frame1.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    single = tmp_path / "frame10.png"
    found = find_images([str(single), str(tmp_path)])
    assert [f.name for f in found] == ["frame10.png", "deep/frame1.PNG", "frame2.jpg", "frame10.png"]
    assert found[1].path == tmp_path / "deep/frame1.PNG"


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png: no such image"):
        find_images([str(tmp_path / "nothing.png")])
    with pytest.raises(UserError, match="no image in this folder"):
        find_images([str(tmp_path)])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png: .*leave it out"):
        read_picture(tmp_path / "broken.png")


def test_spread_takes_the_first_and_the_last():
    assert spread(range(5), 5) == [0, 1, 2, 3, 4]
    assert spread(range(100), 4) == [0, 33, 66, 99]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((480, 854), 480, (480, 848)), ((100, 37), 64, (176, 64)), ((9, 9), 3, (16, 16)), ((32, 33), 32, (32, 32))],
)
def test_both_sides_become_whole_patches(shape, size, expected):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    fitted = fit_patches(image, 16, size, "it")
    assert (fitted.dtype, tuple(fitted.shape)) == (torch.uint8, (3, *expected))
    assert abs(fitted.float().mean() - image.mean()) < 4
    with pytest.raises(UserError, match=r"it: 120 x 120 patches, at most 10,000 .* set size= below 1920"):
        fit_patches(image[:9, :9], 16, 1920, "it")


def test_usual_size_follows_image_and_training():
    encoder = ByColour()  # trained with 32
    sizes = [usual_size(encoder, np.zeros((*shape, 3))) for shape in ((20, 90), (300, 200), (1000, 2000))]
    assert sizes == [32, 200, 480]


def test_masks_are_found_by_name(tmp_path):
    (tmp_path / "deep").mkdir()
    mask = np.zeros((9, 12, 3), np.uint8)
    mask[3:5, 2:7, 2] = 128  # a palette's colour
    cv2.imwrite(str(tmp_path / "deep" / "a.b.png"), mask)
    read = read_mask(Found(tmp_path / "elsewhere/a.b.jpg", "deep/a.b.jpg"), tmp_path)
    assert torch.equal(read, torch.from_numpy(mask.any(2)))
    with pytest.raises(UserError, match=r"deep/c\.png: no such mask.*masks="):
        read_mask(Found(tmp_path / "c.jpg", "deep/c.jpg"), tmp_path)


def test_points_are_fractions_or_pixels():
    assert as_fractions((0.25, 0.5), 100, 200) == (0.25, 0.5)
    assert as_fractions((50, 99), 100, 200) == (0.25, 0.99)
    assert as_fractions((0, 1), 100, 200) == (0, 0.01)
    for point in ((200, 5), (3, 100), (-1, 4)):
        with pytest.raises(UserError, match="outside of the first image, which has 200 x 100 pixels"):
            as_fractions(point, 100, 200)
