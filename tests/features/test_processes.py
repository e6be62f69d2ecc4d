"""Extraction by several processes: each computes a share, and each gets the whole, the same as with one process."""

import os
import shutil
import sys
from pathlib import Path

import torch

from dinolab.curation.embed import embed_store
from dinolab.curation.embedder import make_embedder
from dinolab.curation.options import Viewed
from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.features.extract import extract
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.parallel import processes, rank
from tests.pictures import make_folder
from tests.processes import launch


def make_encoder():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return BackboneEncoder(ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16))


def features_of_set(folder: Path):
    found = extract(make_encoder(), open_source(str(folder)), 16, batch_size=3, progress=False, cache=folder / "kept")
    return found.matrix(), found.kept, found.digests


def features(folder: Path, batch_size: int):
    encoder = make_encoder()
    paths = sorted(map(str, folder.rglob("*.png")))
    how = {"batch_size": batch_size, "progress": False, "blocks": 2, "patches": True}
    found = extract(encoder, Source("s", paths, None, []), 16, **how, cache=folder.parent / f"kept_{batch_size}")
    return found.matrix("both", 2), found.kept, found.digests


WORLD, BATCH_SIZES = 3, (3, 16)  # many batches for each process, and fewer batches than processes


def test_shares_make_the_whole(tmp_path):
    folder = make_folder(tmp_path / "images", per_class=10)
    (folder / "class1" / "003.png").write_bytes(b"broken")
    how = Viewed(size="16", precision="fp32", device="cpu", workers=0)
    embed_store(tmp_path / "set", open_source(str(folder)), make_embedder("small", make_encoder(), how, False))
    for name in ("class0/002.png", "class1/004.png", "class1/007.png", "class1/008.png"):  # these are computed again
        os.utime(folder / name, (0, 0))
    started = launch(WORLD, ["-m", "tests.features.test_processes", str(folder)])
    assert [process.wait(100) for process in started] == [0] * WORLD
    for batch_size in BATCH_SIZES:
        cache = tmp_path / f"kept_{batch_size}"
        assert len(list(cache.iterdir())) == 1
        shutil.rmtree(cache)
        alone = features(folder, batch_size)
        for n in range(WORLD):
            together = torch.load(tmp_path / f"{batch_size}_{n}.pt")
            assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) and len(alone[1]) == 19
    alone = features_of_set(tmp_path / "set")
    assert not (tmp_path / "set" / "kept").exists()
    for n in range(WORLD):
        together = torch.load(tmp_path / f"set_{n}.pt")
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) and len(alone[1]) == 19


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with processes(torch.device("cpu")):
        for batch_size in BATCH_SIZES:
            torch.save(features(folder, batch_size), folder.parent / f"{batch_size}_{rank()}.pt")
        torch.save(features_of_set(folder.parent / "set"), folder.parent / f"set_{rank()}.pt")
