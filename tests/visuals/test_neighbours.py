"""Planted twins must be found, nearest first."""

import logging

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.visuals import neighbours as module
from dinolab.visuals.neighbours import neighbours, neighbours_sheet
from tests.pictures import make_folder
from tests.visuals.planted import ByColour


@pytest.fixture
def colours(tmp_path):
    """Ten plain images of ten colours."""
    values = np.random.default_rng(0).integers(0, 256, (10, 3)).astype(np.uint8)
    for n, value in enumerate(values):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((32, 40, 3), value[::-1], np.uint8))
    return open_source(str(tmp_path)), values


def test_twins_come_first_and_the_rest_in_order(colours, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)  # several batches on both sides
    source, values = colours
    queries = [np.full((32, 32, 3), values[n], np.uint8) for n in (7, 2)]
    found = neighbours(ByColour().train(), queries, source, 4, 32)
    features = F.normalize(torch.from_numpy(values.astype(np.float32)) / 255 - 0.5, dim=1)
    for query, near in zip((7, 2), found):
        similarity, order = (features @ features[query]).topk(4)
        assert [n.position for n in near] == order.tolist()
        assert near[0].position == query
        assert [n.similarity for n in near] == pytest.approx(similarity.tolist(), abs=1e-5)
    assert [len(near) for near in neighbours(ByColour(), queries, source, 50, 32)] == [10, 10]


def test_unreadable_images_are_left_out(tmp_path, caplog):
    folder = make_folder(tmp_path / "images", per_class=2)
    source = open_source(str(folder))
    (folder / "class0" / "001.png").write_bytes(b"no image")
    query = np.zeros((32, 32, 3), np.uint8)
    with caplog.at_level(logging.WARNING):
        (near,) = neighbours(ByColour(), [query], source, 9, 32)
    assert sorted(n.position for n in near) == [0, 2, 3]  # positions in the source, not among the readable images
    assert "1 of 4 images cannot be read" in caplog.text
    with pytest.raises(UserError, match="none of its 1 images"):
        neighbours(ByColour(), [query], Source("them", [str(tmp_path / "no.png")], None, []), 1, 32)


def test_sheet_leaves_the_query_itself_out(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "images", per_class=3, side=32)
    rows = []
    monkeypatch.setattr(module, "write_sheet", lambda cells, out, note: rows.extend(cells))
    queries = [folder / "class0" / "000.png", folder / "class1" / "002.png"]
    neighbours_sheet(ByColour(), queries, open_source(str(folder)), 2, 32, tmp_path / "sheet.png")
    titles = [[cell.title.split(":")[0] for cell in row] for row in rows]
    assert titles == [["query", "class0", "class0"], ["query", "class1", "class1"]]
    for row in rows:
        assert not any(np.array_equal(row[0].picture, cell.picture) for cell in row[1:])
