"""Features with a planted object must come out as its mask, whatever the sign of the components."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dinolab.models.encoder import Features
from dinolab.visuals.pca import PcaMaps, fit, fit_colours, paint, pca_sheet, threshold


def planted(sign=1.0, noise=0.3):
    """Three images of 8 x 8 patches with an object of its own place and size in each."""
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = mask[1, 1:3, 1:7] = mask[2, 4:8, 5:7] = True
    direction = torch.randn(16, generator=g)
    patches = noise * torch.randn(3, 8, 8, 16, generator=g) + 5  # an offset that centring must take out
    return patches + sign * 2 * direction * mask[..., None], mask


def pca_maps(patches):
    """Of a batch (B, h, w, D), each map stacked."""
    pca = fit(patches)
    return PcaMaps(*(torch.stack(part) for part in zip(*(paint(image, pca) for image in patches))))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_foreground_is_the_planted_object(sign):
    patches, mask = planted(sign)
    maps = pca_maps(patches)
    assert torch.equal(maps.foreground, mask)
    assert maps.rgb.shape == (3, 8, 8, 3)
    assert (maps.foreground_rgb[~mask] == 1).all()
    assert maps.foreground_rgb[mask].std(0).min() > 0.1  # the object's own variation fills the colours


def test_the_foreground_has_components_of_its_own():
    """Two halves of the object, told apart by little, beside a background that varies more in another direction."""
    patches, mask = torch.zeros(1, 8, 8, 4), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = True
    patches[mask] = torch.tensor([50.0, 0, 0, 0])
    patches[0, 2:6, 2:6, 3] = torch.tensor([-1.0, -1, 1, 1])
    patches[..., 1:3] += (10 * torch.randn(1, 8, 8, 2, generator=torch.Generator().manual_seed(0))) * ~mask[..., None]
    maps = pca_maps(patches)
    assert torch.equal(maps.foreground, mask)
    halves = maps.foreground_rgb[0, 2:6, 2:6, 0]
    torch.testing.assert_close(halves, torch.tensor([0.0, 0, 1, 1]).expand(4, 4), atol=1e-4, rtol=0)
    assert maps.rgb[0, 2:6, 2:6].std((0, 1)).max() < 0.05  # lost among all patches


def test_colours_share_one_basis_over_images():
    patches, mask = planted(noise=0.05)
    rgb = pca_maps(patches).rgb
    assert rgb.min() == 0
    assert rgb.max() == 1
    objects = torch.stack([rgb[i][mask[i]][:, 0].mean() for i in range(3)])
    backgrounds = torch.stack([rgb[i][~mask[i]][:, 0].mean() for i in range(3)])
    assert objects.std() < 0.02
    assert backgrounds.std() < 0.02
    assert (objects - backgrounds).abs().min() > 0.8


def test_images_may_differ_in_size_and_a_new_one_keeps_the_colours():
    patches, mask = planted(noise=0.05)
    pca = fit([patches[0], patches[1, :4], patches[2, 3:, 2:]])
    assert torch.equal(paint(patches[1, :4], pca).foreground, mask[1, :4])
    known = paint(patches[0], pca).rgb
    assert torch.equal(paint(patches[0, :5, 3:], pca).rgb, known[:5, 3:])  # alone, and of other content: the same basis
    assert paint(patches[0, :2], pca).foreground.sum() == 0


def test_colours_are_the_components_in_order():
    g = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.1, 3.0, 1.0, 9.0])
    x = torch.randn(500, 4, generator=g, dtype=torch.float64) * spread + 7
    found = fit_colours(x)
    got = (x - found.mean) @ found.basis
    _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(got.norm(dim=0), s[:3])
    torch.testing.assert_close((found.basis * v[:3].T).sum(0).abs(), torch.ones(3, dtype=torch.float64))
    assert torch.corrcoef(torch.stack([got[:, 0], x[:, 3]]))[0, 1] > 0.99  # sign: largest loading positive
    rgb = found(x)
    assert (rgb == 0).sum(0).tolist() == [5, 5, 5]  # below the 1st percentile
    assert (rgb == 1).sum(0).tolist() == [5, 5, 5]
    assert torch.equal(rgb.argsort(0)[5:-5], got.float().argsort(0)[5:-5])


def test_threshold_cuts_between_unequal_groups():
    values = torch.cat([torch.linspace(0, 1, 95), torch.linspace(9, 10, 5)]).double()
    assert 1 < threshold(values) < 9
    assert threshold(torch.tensor([4.0])) == 4


def test_flat_features_do_not_break_it():
    maps = pca_maps(torch.ones(1, 3, 4, 8))
    assert all(part.isfinite().all() for part in maps)


class Bright(nn.Module):
    """Features follow the patch's mean colour, along directions of its own."""

    patch_size = 8

    def __init__(self):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(3, 12, generator=torch.Generator().manual_seed(2)))

    def forward(self, images):
        assert not self.training
        colour = nn.functional.avg_pool2d(images.float(), 8).permute(0, 2, 3, 1)
        patches = colour @ self.basis
        return Features(patches.mean((1, 2)), patches[:, 0, :0], patches)


def test_sheet(tmp_path):
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(20, 60, (3, 35, 32), generator=g, dtype=torch.uint8) for _ in range(2)]
    for image in images:
        image[:, 8:24, 8:24] += 150
    encoder = Bright().train()
    pca_sheet(encoder, images, tmp_path / "pca.png")
    assert encoder.training
    sheet = cv2.imread(str(tmp_path / "pca.png")).astype(int)
    height, width = sheet.shape[:2]
    assert width > 3 * 200
    assert 2 * 200 < height < 2 * 200 + 200
    last = sheet[45 : 45 + 225, -234:-9]  # first row, third column: the object on white
    share_white = (last.min(2) > 250).mean()
    assert share_white == pytest.approx(0.75, abs=0.06)
    assert (last[80:140, 80:140].min(2) < 250).mean() > 0.5
    first = np.abs(sheet[45 : 45 + 225, 9:234] - 190).max(2) < 40
    assert first[70:150, 70:150].mean() > 0.9  # the picture itself, object bright
    assert first[:40].mean() < 0.1
