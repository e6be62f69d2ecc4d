"""The similarity of a patch must be 1 there and at its twins, and the picture must show it."""

import cv2
import pytest
import torch

from dinolab.visuals.similarity import patch_at, scale, similarity_map, similarity_sheet
from tests.visuals.planted import ByColour, scene


def test_map_is_the_cosine_and_one_at_the_patch():
    patches = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(0))
    query = patch_at(patches, 0.5, 0.99)
    assert torch.equal(query, patches[4, 3])
    found = similarity_map(3 * patches, query)
    expected = [[p @ query / p.norm() / query.norm() for p in row] for row in patches]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found[4, 3] == pytest.approx(1, abs=1e-6)
    assert found.flatten().argmax() == 4 * 7 + 3


def test_scale_leaves_the_patch_itself_out():
    low, high = scale([torch.tensor([[1.0, 0.2], [-0.1, 0.0]]), torch.tensor([[0.3, 0.25]])])
    assert (low, high) == pytest.approx((-0.1, 0.3))


def test_sheet_lights_the_same_colour_in_other_images(tmp_path):
    images = [scene(40, 56, 8, 8), scene(48, 35, 16, 24), scene(40, 56, 8, 8, (30, 30, 250))]  # 35: cut to 32
    low, high = scale(similarity_sheet(ByColour().train(), images, (12 / 56, 12 / 40), tmp_path / "sheet.png"))
    assert high == pytest.approx(1, abs=1e-5)
    assert low < 0.3
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    height = sheet.shape[0]
    lower = sheet[height // 2 :].astype(int)
    yellow = (lower[..., 2] > 180) & (lower[..., 0] < 160) & (lower[..., 1] > 150)
    shares = [part.mean() for part in torch.from_numpy(yellow).double().tensor_split(3, dim=1)]
    assert shares[0] > 0.03
    assert shares[1] > 0.03
    assert shares[2] < 0.01
    assert (sheet[: height // 2].min(2) > 250).mean() < 0.5  # the images above


def test_one_patch_alone(tmp_path):
    similarity_sheet(ByColour(), [scene(8, 8, 0, 0)], (0.5, 0.5), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()
