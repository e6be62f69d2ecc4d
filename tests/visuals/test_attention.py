"""Attention planted on known patches must come out there: in the maps, the masks and the picture."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dinolab.visuals.attention import (
    HEAD_COLOURS,
    attention_maps,
    attention_sheet,
    best_head_jaccard,
    colour_heads,
    head_jaccards,
    jaccard,
    mass_mask,
)


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
    assert mass_mask(torch.ones(1, 5), 0.6).sum() == 3  # exactly the share, where that is possible


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
    # Without the head that is right twice, the mean of the other counts, not its best image.
    assert best_head_jaccard(maps[:, [0, 2]], masks, share=0.9)["best"] == pytest.approx(0.5)


def test_images_may_differ_in_size():
    maps = [torch.full((2, 2, 3), 1e-6), torch.full((2, 4, 4), 1e-6)]
    masks = [torch.zeros(20, 33, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)]
    maps[0][1, 0, 2] = maps[1][1, 3, 3] = 1
    masks[0][:10, 22:] = masks[1][6:, 6:] = True
    assert head_jaccards(maps[0], masks[0])[1] == 1
    result = best_head_jaccard(maps, masks)
    assert (result["best"], result["best_head"]) == (1, 1)
    assert [values[1] for values in result["images"]] == [1, 1]


def test_each_head_has_its_colour_and_the_stronger_one_the_overlap():
    maps = torch.zeros(2, 2, 4)
    maps[0, 0] = torch.tensor([0.5, 0.4, 0.0, 0.0])  # looks left and middle
    maps[1, 0] = torch.tensor([0.0, 0.3, 0.2, 0.0])  # looks middle, with more of its own attention, and right
    drawn = colour_heads(np.full((224, 448, 3), 0.5), maps, share=1.0)

    def colour(column):
        return drawn[56, 112 * column + 56]

    grey = colour(3)
    assert np.ptp(grey) == 0
    for column, head in ((0, 0), (1, 1), (2, 1)):
        painted = colour(column) - 0.35 * 0.5
        np.testing.assert_allclose(painted, 0.6 * np.array(HEAD_COLOURS[head]), atol=1e-6)
    np.testing.assert_allclose(drawn[56, 223], HEAD_COLOURS[0])  # the first head's edge shows in the overlap


def read_cells(path, rows, columns):
    """The sheet's pixels without titles and note, one block a cell; of equal cells without titles between."""
    sheet = cv2.imread(str(path))
    width = sheet.shape[1] / columns
    return [[sheet[45 + 234 * r : 260 + 234 * r, round(c * width) + 12 : round((c + 1) * width) - 6]
             for c in range(columns)] for r in range(rows)]  # fmt: skip


def test_sheet_shows_each_head_where_it_looks(tmp_path):
    encoder = Planted().train()
    images = [torch.full((3, 32, 35), 90, dtype=torch.uint8) for _ in range(2)]  # 3 columns fill no patch
    images[0][0, :, :] = 250
    out = tmp_path / "new" / "sheet.png"
    attention_sheet(encoder, images, out)
    assert encoder.training
    sheet = cv2.imread(str(out))
    height, width = sheet.shape[:2]
    assert width > 9 * 200  # image, colours, mean and six heads; the other two below
    assert 4 * 225 < height < 4 * 300
    assert (sheet[:3] == 255).all()
    assert (sheet[:, :3] == 255).all()

    (top,) = read_cells(out, 1, 9)
    for head in range(3):
        patch = top[3 + head].max(2)[4:]
        column = [block.mean() for block in np.array_split(patch[: patch.shape[0] // 5], 4, axis=1)]
        assert int(np.argmax(column)) == head  # head i lights patch i of the first row
        assert patch[patch.shape[0] // 2 :].mean() < 0.6 * max(column)
    blue, green, red = top[0].reshape(-1, 3).mean(0)
    assert red > 2 * blue
    assert green == pytest.approx(blue, abs=2)
    below = sheet[round(height * 0.3) : round(height * 0.45)]
    assert (below[:, : 3 * width // 9] == 255).all()
    assert below[:, 3 * width // 9 + 9 : 5 * width // 9 - 9].mean() < 128  # heads 7 and 8
    assert (below[:, 5 * width // 9 + 9 :] == 255).all()


def test_sheet_with_masks_returns_the_jaccard_index(tmp_path):
    images = [torch.full((3, 16, 32), 90, dtype=torch.uint8)] * 2
    masks = [torch.zeros(16, 32, dtype=torch.bool) for _ in images]
    for mask in masks:
        mask[:8, 16:24] = True  # patch 2
    result = attention_sheet(Planted(), images, tmp_path / "sheet.png", masks=masks).overlap
    assert result["best_head"] == 2
    assert result["heads"] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert attention_sheet(Planted(), images, tmp_path / "sheet.png").overlap is None
