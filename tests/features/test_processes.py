"""Extraction by several processes: each computes a share, and each gets the whole, the same as with one process."""

import sys
from pathlib import Path

import pytest
import torch

from dinolab.data.types import Source
from dinolab.features.extract import extract
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.parallel import processes, rank
from tests.pictures import make_folder
from tests.processes import launch


def features(folder: Path, batch_size: int):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = BackboneEncoder(ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16))
    paths = sorted(map(str, folder.rglob("*.png")))
    how = {"batch_size": batch_size, "progress": False, "blocks": 2, "patches": True, "cache": folder.parent / "kept"}
    found = extract(encoder, Source("s", paths, None, []), 16, **how)
    return found.matrix("both", 2), found.kept, found.digests


@pytest.mark.parametrize(("world", "batch_size"), [(2, 3), (3, 16)])
def test_shares_make_the_whole(tmp_path, world, batch_size):
    folder = make_folder(tmp_path / "images", per_class=10)
    (folder / "class1" / "003.png").write_bytes(b"broken")
    started = launch(world, [__file__, str(folder), str(batch_size)])
    assert [process.wait(100) for process in started] == [0] * world
    assert len(list((tmp_path / "kept").iterdir())) == 1
    for file in (tmp_path / "kept").iterdir():
        file.unlink()
    alone = features(folder, batch_size)
    for n in range(world):
        together = torch.load(tmp_path / f"{n}.pt")
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) and len(alone[1]) == 19


if __name__ == "__main__":
    with processes(torch.device("cpu")):
        torch.save(features(Path(sys.argv[1]), int(sys.argv[2])), Path(sys.argv[1]).parent / f"{rank()}.pt")
