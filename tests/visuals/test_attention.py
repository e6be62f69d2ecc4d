"""Attention planted on known patches must come out there: in the maps, the masks and the picture."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dinolab.visuals.attention import attention_maps, attention_sheet, best_head_jaccard, jaccard, mass_mask


class Planted(nn.Module):
    """Head i's class token gives 0.8 to patch i, 0.1 to the class token and 0.1 to two registers."""

    patch_size, heads, registers = 8, 8, 2

    def attention(self, images):
        assert not self.training
        h, w = images.shape[2] // 8, images.shape[3] // 8
        tokens = 1 + self.registers + h * w
        weights = torch.full((len(images), self.heads, tokens, tokens), 1 / tokens)
        weights[:, :, 0] = 0
        weights[:, :, 0, 0] = 0.1
        weights[:, :, 0, 1 : 1 + self.registers] = 0.05
        for head in range(self.heads):
            weights[:, head, 0, 1 + self.registers + head] = 0.8
        return weights


def test_maps_leave_out_class_token_and_registers():
    maps = attention_maps(Planted().eval(), torch.zeros(2, 3, 16, 40, dtype=torch.uint8))
    assert maps.shape == (2, 8, 2, 5)
    expected = torch.zeros(8, 10)
    expected[range(8), range(8)] = 0.8
    torch.testing.assert_close(maps[1], expected.view(8, 2, 5))


def test_mass_mask_is_the_smallest_set():
    m = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    assert mass_mask(m, 0.35).tolist() == [[False, True], [False, False]]
    assert mass_mask(m, 0.6).tolist() == [[False, True], [False, True]]
    assert mass_mask(m, 0.85).tolist() == [[False, True], [True, True]]
    assert mass_mask(m, 1.0).all()
    assert mass_mask(torch.tensor([[0.5, 0.25], [0.25, 0.0]]), 0.5).tolist() == [[True, False], [False, False]]
    assert torch.equal(mass_mask(torch.stack([m, m.flip(0)]), 0.6)[1], mass_mask(m, 0.6).flip(0))
    assert torch.equal(mass_mask(0.01 * m), mass_mask(m))  # maps need not sum to one


def test_mass_mask_against_every_subset():
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        m = torch.rand(2, 4, generator=g, dtype=torch.float64)
        mask = mass_mask(m, 0.6)
        enough = [s for s in range(256) if sum(v for i, v in enumerate(m.flatten()) if s >> i & 1) >= 0.6 * m.sum()]
        assert int(mask.sum()) == min(s.bit_count() for s in enough)
        assert m[mask].sum() >= 0.6 * m.sum()


def test_jaccard():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1
    assert jaccard(a, ~a) == 0
    assert jaccard(a & ~a, b & ~b) == 1


def test_best_head_is_chosen_once_for_all_images():
    maps = torch.full((2, 3, 4, 4), 1e-6)
    maps[:, 0, 0, 0] = 1  # a corner: never on the object
    maps[:, 1, 1:3, 1:3] = 1  # the object in both
    maps[0, 2, 1:3, 1:3] = 1  # in the first only
    maps[1, 2, 3, 3] = 1
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 8:24, 8:24] = True
    result = best_head_jaccard(maps, masks, share=0.9)
    assert result["heads"] == pytest.approx([0, 1, 0.5])
    assert (result["best"], result["best_head"]) == (1, 1)
    # Without the head that is right twice, the other's mean counts, not its luck with one image.
    assert best_head_jaccard(maps[:, [0, 2]], masks, share=0.9)["best"] == pytest.approx(0.5)


def test_sheet_shows_each_head_where_it_looks(tmp_path):
    encoder = Planted().train()
    images = [torch.full((3, 32, 35), 90, dtype=torch.uint8) for _ in range(2)]  # 3 columns fill no patch
    images[0][0, :, :] = 250
    out = tmp_path / "new" / "sheet.png"
    attention_sheet(encoder, images, out)
    assert encoder.training
    sheet = cv2.imread(str(out))
    height, width = sheet.shape[:2]
    assert width > 8 * 200  # image, mean and six of the eight heads
    assert 2 * 200 < height < 2 * 200 + 150
    assert (sheet[:3] == 255).all()
    assert (sheet[:, :3] == 255).all()

    top = sheet[45 : 45 + height // 2 - 40]  # below the titles, the first row
    cell = width / 8
    for head in range(3):
        patch = top[:, round((2 + head) * cell) + 12 : round((3 + head) * cell) - 4].max(2)
        column = [block.mean() for block in np.array_split(patch[: patch.shape[0] // 5], 4, axis=1)]
        assert int(np.argmax(column)) == head  # head i lights patch i of the first row
        assert patch[patch.shape[0] // 2 :].mean() < 0.6 * max(column)
    blue, green, red = top[:, 20 : round(cell) - 10].reshape(-1, 3).mean(0)
    assert red > 2 * blue
    assert green == pytest.approx(blue, abs=2)
