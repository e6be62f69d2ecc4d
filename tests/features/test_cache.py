"""The cache of features: what hits, what misses, what is damaged."""

import json
import logging
import os

import pytest
import torch
from torch import nn

from dinolab.data.sources import open_source
from dinolab.data.types import Source
from dinolab.features.cache import key, read, write
from dinolab.features.extract import extract
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model
from tests.pictures import make_folder


class Counted(BackboneEncoder):
    """Counts the images that it sees."""

    seen = 0

    def layers(self, images, n):
        Counted.seen += len(images)
        return super().layers(images, n)


def make_encoder(**changed):
    torch.manual_seed(0)
    return Counted(ViT(Model(**{"dim": 12, "depth": 2, "heads": 2, "patch_size": 4, **changed}), 16))


@pytest.fixture
def source(tmp_path):
    return open_source(str(make_folder(tmp_path / "images", per_class=3, side=16)))


@pytest.fixture
def count(source, tmp_path):
    """A function that extracts; it returns the number of images that went through the encoder, and the features."""

    def call(encoder, source=source, size=16, **options):
        Counted.seen = 0
        found = extract(encoder, source, size, progress=False, cache=tmp_path / "kept", **options)
        return Counted.seen, found

    return call


def test_another_way_to_decode_is_computed_anew(count, monkeypatch):
    count(make_encoder())
    for name in ("DINOLAB_WHITE", "DINOLAB_MAX_PIXELS"):
        monkeypatch.setenv(name, "5000")
        assert count(make_encoder())[0] == 6


def test_the_second_time_nothing_is_computed(count):
    (seen, first), (again, second) = count(make_encoder()), count(make_encoder())
    assert (seen, again) == (6, 0)
    for name in ("labels", "kept", "digests", "patches"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert torch.equal(first.matrix(), second.matrix())


def test_changed_weights_or_settings_are_computed_anew(count):
    encoder = make_encoder()
    assert count(encoder)[0] == 6
    assert count(encoder, size=8)[0] == 6
    assert count(encoder, size=(16, 8))[0] == 6
    assert count(encoder, patches=True)[0] == 6
    assert count(encoder, precision="bf16")[0] == 6
    with torch.no_grad():
        encoder.vit.blocks[1].mlp.fc2.bias[3] += 1e-3
    assert count(encoder)[0] == 6
    assert count(encoder)[0] == 0


def test_features_with_more_blocks_serve_for_fewer(count, source):
    encoder = make_encoder(depth=3)
    calls = [
        (1, False, 6),
        (2, False, 6),
        (1, False, 0),
        (1, True, 6),
        (2, True, 0),
        (4, True, 6),
        (4, False, 0),
        (1, False, 0),
    ]
    for blocks, patches, expected in calls:  # a larger extraction keeps what the file already has
        seen, found = count(encoder, blocks=blocks, patches=patches)
        assert (blocks, patches, seen) == (blocks, patches, expected)
        fresh = extract(encoder, source, 16, progress=False, blocks=blocks, patches=patches)
        assert len(found.blocks) == len(fresh.blocks) == min(blocks, 3)
        assert found.patches.shape == fresh.patches.shape
        for tokens in ("cls", "both"):
            torch.testing.assert_close(found.matrix(tokens, blocks), fresh.matrix(tokens, blocks))


def test_same_weights_in_another_structure_are_another_encoder(source):
    few, many = make_encoder(), make_encoder(heads=3)
    many.load_state_dict(few.state_dict())
    assert key(few, source, "") != key(many, source, "")
    other = make_encoder(antialias=not few.vit.cfg.antialias)
    assert key(few, source, "") != key(other, source, "")
    assert key(few, source, "") == key(make_encoder(), source, "")


def test_changed_images_are_computed_anew_and_changed_labels_are_not(count, source):
    encoder = make_encoder()
    count(encoder)
    status = os.stat(source.paths[2])
    os.utime(source.paths[2], ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert count(encoder)[0] == 6
    relabelled = Source("new", source.paths, source.labels[::-1].copy(), source.classes)
    seen, found = count(encoder, relabelled)
    assert seen == 0
    assert found.labels.tolist() == relabelled.labels.tolist()
    assert count(encoder, Source("fewer", source.paths[1:], None, []))[0] == 5


@pytest.mark.parametrize("damage", ["cut", "flipped", "rubbish", "empty", "notes"])
def test_a_damaged_file_is_computed_anew_and_mended(count, tmp_path, caplog, damage):
    expected = count(make_encoder())[1].matrix()
    (file,) = (tmp_path / "kept").iterdir()
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[-5] ^= 64
    file.write_bytes(
        {
            "cut": data[:-10],
            "flipped": data,
            "notes": data.replace(b'"broken"', b'"brakes"'),
            "rubbish": b"x" * 300,
            "empty": b"",
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        seen, found = count(make_encoder())
    assert seen == 6 and torch.equal(found.matrix(), expected)
    (record,) = caplog.records
    assert "damaged" in record.getMessage() and file.name in record.getMessage()
    assert count(make_encoder())[0] == 0


def test_broken_images_are_named_from_the_cache_too(count, source, caplog):
    with open(source.paths[1], "wb") as file:
        file.write(b"no image")
    count(make_encoder())
    caplog.clear()
    seen, found = count(make_encoder())
    assert seen == 0 and found.kept.tolist() == [0, 2, 3, 4, 5]
    assert "1 of 6 images cannot be read" in caplog.text and "001.png" in caplog.text


def test_a_vanished_image_is_a_broken_one(count, source):
    os.remove(source.paths[0])
    assert count(make_encoder())[1].kept.tolist() == [1, 2, 3, 4, 5]


def test_a_cache_that_cannot_be_written_costs_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    write(tmp_path / "file" / "x.safetensors", {"a": torch.ones(2)}, {"broken": json.dumps([])})
    assert "not kept" in caplog.text
    assert read(tmp_path / "file" / "x.safetensors") is None


def test_a_module_without_weights_has_a_key(source):
    assert key(nn.Identity(), source, "") != key(nn.ReLU(), source, "")
