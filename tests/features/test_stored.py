"""An image of a curated set is embedded once: what an encoder has left there is read, and nothing else."""

import logging
import os

import cv2
import numpy as np
import pytest
import torch

from dinolab import cli
from dinolab.curation.embed import embed_store
from dinolab.curation.embedder import make_embedder
from dinolab.curation.options import Viewed
from dinolab.data.sources import open_source
from dinolab.features.extract import extract
from dinolab.visuals.neighbours import neighbours
from tests.features.test_cache import Counted, make_encoder
from tests.pictures import make_folder


@pytest.fixture
def made(tmp_path):
    """An encoder, and a curated set of six labelled images of two classes, which it has embedded."""
    folder, encoder = make_folder(tmp_path / "images", per_class=3, side=16), make_encoder()
    how = Viewed(size="16", precision="fp32", device="cpu", workers=0)
    embed_store(tmp_path / "set", open_source(str(folder)), make_embedder("small", encoder, how, False))
    return encoder, open_source(str(tmp_path / "set"))


def features(encoder, source, cache, size=16, **options):
    """The number of images that pass through the encoder, and the features."""
    Counted.seen = 0
    found = extract(encoder, source, size, progress=False, cache=cache, **options)
    return Counted.seen, found


def test_stored_class_tokens_are_read_and_only_changed_images_are_computed(made, tmp_path, caplog):
    encoder, source = made
    kept = tmp_path / "kept"
    fresh = features(encoder, source, None)[1]
    with caplog.at_level(logging.INFO):
        seen, found = features(encoder, source, kept)
    assert seen == 0 and not kept.exists()
    assert "6 class tokens are read from the set, 0 are computed" in caplog.text
    assert torch.equal(found.matrix(), fresh.matrix().half().float())
    assert found.patches.shape == fresh.patches.shape
    for name in ("labels", "kept", "digests"):
        assert torch.equal(getattr(found, name), getattr(fresh, name))
    cv2.imwrite(source.paths[4], np.full((16, 16, 3), 90, np.uint8))
    os.remove(source.paths[2])
    fresh = features(encoder, source, None)[1]
    seen, found = features(encoder, source, kept)
    assert seen == 1 and found.kept.tolist() == [0, 1, 3, 4, 5]
    assert "1 of 6 images cannot be read" in caplog.text
    torch.testing.assert_close(found.matrix()[3], fresh.matrix()[3], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.matrix(), fresh.matrix(), rtol=1e-3, atol=1e-3)
    assert torch.equal(found.labels, fresh.labels) and torch.equal(found.digests, fresh.digests)


@pytest.mark.parametrize("other", [{"size": 8}, {"blocks": 2}, {"patches": True}, {"precision": "bf16"}, {"depth": 1}])
def test_what_the_set_does_not_hold_is_computed(made, tmp_path, other):
    encoder, source = made
    if other.pop("depth", 0):
        encoder = make_encoder(depth=1)
    assert features(encoder, source, tmp_path / "kept", **other)[0] == 6


def test_pictures_of_neighbours_read_sets(made):
    encoder, source = made
    queries = [cv2.imread(path)[:, :, ::-1] for path in source.paths[:2]]
    Counted.seen = 0
    found = neighbours(encoder, queries, source, 3, 16)
    assert Counted.seen == 2  # the queries
    assert [near[0].position for near in found] == [0, 1]


def test_a_damaged_set_costs_a_warning(made, tmp_path, caplog):
    encoder, source = made
    file = tmp_path / "set" / "shards" / "000000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert features(encoder, source, tmp_path / "kept")[0] == 6
    assert "000000.npy: missing or damaged" in caplog.text


def test_an_evaluation_reads_sets(tmp_path, capsys, caplog):
    for name in ("train", "test"):
        make_folder(tmp_path / name, per_class=3, side=16)
        words = [
            "curate",
            "embed",
            tmp_path / f"{name}-set",
            f"data={tmp_path / name}",
            "encoder=pixels",
            "precision=fp32",
        ]
        assert cli.main([*map(str, words), "device=cpu", "workers=0"]) == 0
    sides = [f"{name}={tmp_path / name}-set" for name in ("train", "test")]
    words = [
        "k=1",
        "precision=fp32",
        f"cache={tmp_path / 'kept'}",
        f"out={tmp_path / 'found'}",
        "device=cpu",
        "workers=0",
    ]
    assert cli.main(["eval", "knn", "pixels", *sides, *words]) == 0
    assert caplog.text.count("6 class tokens are read from the set") == 2
    assert not (tmp_path / "kept").exists()
