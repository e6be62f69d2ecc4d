"""Extraction with a tiny encoder on images written for the test."""

import logging
import multiprocessing
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dinolab.data.types import Source
from dinolab.errors import UserError
from dinolab.evals.augmented import Augmented, batches
from dinolab.features.extract import Rows, extract
from dinolab.features.pixels import PixelEncoder
from dinolab.models.encoder import Features


class MeanColour(nn.Module):
    """Class token: the mean colour, through a dropout that would spoil it in training mode."""

    dim, patch_size = 3, 8

    def __init__(self):
        super().__init__()
        self.dropout, self.frozen, self.modes = nn.Dropout(0.9), nn.Dropout(0.9).eval(), []

    def forward(self, images):
        assert images.dtype == torch.uint8
        self.modes.append(self.training or torch.is_grad_enabled())
        cls = self.frozen(self.dropout(images.double().mean((2, 3))))
        patches = torch.stack([cls + 1, cls + 3], 1)[:, None]
        return Features(cls, cls[:, None][:, :0], patches)

    def layers(self, images, n):
        last = self(images)
        return [last._replace(cls=last.cls + n - 1 - i, patches=last.patches + n - 1 - i) for i in range(n)]


@pytest.fixture
def source(tmp_path):
    """Seven plain images whose colours encode their position: R = 10 x position, G = 100, B = 200."""
    for i in range(7):
        rgb = np.full((12, 20, 3), (10 * i, 100, 200), np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), rgb[..., ::-1])
    paths = [str(tmp_path / f"{i}.png") for i in range(7)]
    return Source("seven", paths, np.array([0, 1, 2, 0, 1, 2, 0]), ["a", "b", "c"])


@pytest.mark.parametrize(("batch_size", "workers"), [(64, 0), (3, 0), (2, 2)])
def test_rows_are_in_the_source_s_order(source, batch_size, workers):
    found = extract(MeanColour(), source, 8, batch_size, workers=workers, progress=False)
    assert found.matrix().dtype == torch.float32
    assert found.labels.dtype == torch.int64
    torch.testing.assert_close(found.matrix(), torch.tensor([[10.0 * i, 100, 200] for i in range(7)]))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.kept.tolist() == [*range(7)]
    assert found.patches.shape == (7, 0)


def test_blocks_and_patches(source):
    found = extract(MeanColour(), source, 8, progress=False, blocks=2, patches=True)
    last = torch.tensor([[10.0 * i, 100, 200] for i in range(7)])
    torch.testing.assert_close(found.matrix(), last)
    torch.testing.assert_close(found.matrix("patches"), last + 2)  # the mean of 1 and 3 more
    torch.testing.assert_close(found.matrix("cls", 2), torch.cat([last + 1, last], 1))
    torch.testing.assert_close(found.matrix("both", 2), torch.cat([last + 1, last, last + 2], 1))
    index = torch.tensor([5, 0, 5])
    for tokens, blocks in (("cls", 1), ("patches", 1), ("cls", 2), ("both", 2)):
        assert torch.equal(found.matrix(tokens, blocks, index), found.matrix(tokens, blocks)[index])


def test_rows_survive_many_flushes(monkeypatch):
    monkeypatch.setattr("dinolab.features.extract.FLUSH", 5)
    rows, x = Rows(23), torch.randn(23, 3)
    for part in x.split(2):
        rows.add([part, 2 * part[:, :1]])
    rows.flush()
    rows.flush()  # nothing left changes nothing
    assert torch.equal(rows.matrices[0], x) and torch.equal(rows.matrices[1], 2 * x[:, :1])


def test_bf16_is_near_fp32_and_kept_as_float32(source):
    class Projection(MeanColour):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, images):
            features = super().forward(images)
            return features._replace(cls=self.linear(features.cls.float()))

    encoder = Projection()
    exact, rough = (extract(encoder, source, 8, progress=False, precision=p).matrix() for p in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=2)
    assert not torch.equal(rough, exact)


def deadly(path):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker must inherit the patch")
def test_a_worker_that_dies_costs_one_line(source, monkeypatch):
    monkeypatch.setattr("dinolab.features.loading.read_file", deadly)
    monkeypatch.setattr("dinolab.evals.augmented.read_image", deadly)
    images = Augmented(source.paths, torch.as_tensor(source.labels), lambda image, rng: None, 0)
    for way in (
        lambda: extract(MeanColour(), source, 8, workers=1, progress=False),
        lambda: next(batches(images, 1, 2, "cpu", workers=1)),
    ):
        with pytest.raises(UserError, match=r"process that loads images died.*fewer workers \(now 1\)") as caught:
            way()
        assert "\n" not in str(caught.value)


def test_broken_images_are_dropped_from_both_and_named(source, caplog):
    for i in (0, 4):
        Path(source.paths[i]).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        found = extract(MeanColour(), source, 8, batch_size=2, progress=False)
    assert found.matrix()[:, 0].tolist() == [10, 20, 30, 50, 60]
    assert found.labels.tolist() == [1, 2, 0, 2, 0]
    assert found.kept.tolist() == [1, 2, 3, 5, 6]
    (record,) = caplog.records
    assert "2 of 7" in record.getMessage()
    assert "0.png" in record.getMessage()
    assert "4.png" in record.getMessage()
    assert "3.png" not in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_whole_broken_batch_and_nothing_left(source):
    for i in (0, 1):
        Path(source.paths[i]).write_bytes(b"")
    assert extract(MeanColour(), source, 8, batch_size=2, progress=False).matrix().shape == (5, 3)
    for path in source.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="seven: none of its 7 images"):
        extract(MeanColour(), source, 8, progress=False)


def test_without_labels_they_are_minus_one(source):
    found = extract(MeanColour(), Source("s", source.paths, None, []), 8, progress=False)
    assert found.labels.tolist() == [-1] * 7
    assert not found.matrix().is_inference()  # a probe can be trained on it


def test_modes_are_restored_even_after_an_error(source):
    encoder = MeanColour().train()
    encoder.frozen.eval()
    extract(encoder, source, 8, progress=False)
    assert encoder.modes == [False]
    assert (encoder.training, encoder.dropout.training, encoder.frozen.training) == (True, True, False)

    encoder.dropout.p = None  # fails
    with pytest.raises(TypeError):
        extract(encoder, source, 8, progress=False)
    assert (encoder.training, encoder.dropout.training, encoder.frozen.training) == (True, True, False)


def test_progress_goes_to_stderr_only_when_asked(source, capsys):
    extract(MeanColour(), source, 8, progress=True)
    shown = capsys.readouterr()
    assert "seven" in shown.err
    assert shown.out == ""
    extract(MeanColour(), source, 8, progress=False)
    assert capsys.readouterr() == ("", "")


def test_pixels_are_centred_and_keep_their_place():
    images = torch.full((2, 3, 64, 64), 51, dtype=torch.uint8)
    images[1, 0, :32] = 255
    features = PixelEncoder()(images)
    assert features.cls.shape == (2, PixelEncoder.dim)
    assert features.patches.shape == (2, 1, 1, PixelEncoder.dim)
    torch.testing.assert_close(features.cls[0], torch.full((3072,), -0.3))
    colours = features.cls[1].view(3, 32, 32)
    torch.testing.assert_close(colours[0, :15], torch.full((15, 32), 0.5))
    torch.testing.assert_close(colours[0, 17:], torch.full((15, 32), -0.3))
    torch.testing.assert_close(colours[1:], torch.full((2, 32, 32), -0.3))
