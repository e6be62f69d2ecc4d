"""`dinolab.embed`."""

import numpy as np
import pytest
import torch

import dinolab
from dinolab.data.decode import read_image
from dinolab.data.sources import open_source
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.features.embed import run_embed
from dinolab.features.options import EmbedOptions
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import save_encoder
from tests.pictures import make_folder


@pytest.fixture
def images(tmp_path):
    return str(make_folder(tmp_path / "images", per_class=4, classes=3, seed=1))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_encoder(ViT(Model(dim=12, depth=2, heads=2, patch_size=4, init="scaled"), 16), folder, {"step": 3})
    return folder


def test_features_names_and_labels(images, run, tmp_path):
    file = tmp_path / "features.npz"
    found = dinolab.embed(run, images, file, patches=True, cache="none", precision="fp32")
    kept = np.load(file)
    assert set(kept.files) == set(found) == {"cls", "patches", "labels", "classes", "names"}
    encoder, source = dinolab.load(run), open_source(images)
    views = torch.stack([torch.as_tensor(eval_view(read_image(path), 16)) for path in source.paths])
    with torch.inference_mode():
        expected = encoder(views)
    np.testing.assert_allclose(kept["cls"], expected.cls, atol=1e-5)
    np.testing.assert_allclose(kept["patches"], expected.patches.mean((1, 2)), atol=1e-5)
    assert kept["labels"].tolist() == source.labels.tolist() and kept["classes"].tolist() == source.classes
    assert kept["names"][:2].tolist() == ["class0/000.png", "class0/001.png"]
    assert np.array_equal(dinolab.embed(encoder, source, cache="none", precision="fp32")["cls"], found["cls"])


def test_read_options(images, tmp_path):
    options = EmbedOptions(size="16x32", cache=str(tmp_path / "kept"), data=images, out=str(tmp_path / "f.npz"))
    options.workers, options.device = 0, "cpu"
    assert run_embed("pixels", options)["cls"].shape == (12, 3072)
    assert np.load(tmp_path / "f.npz")["cls"].shape == (12, 3072) and len(list((tmp_path / "kept").iterdir())) == 1


def test_a_file_that_cannot_be_written_is_refused(images, tmp_path):
    for out in (tmp_path / "features.csv", tmp_path / "nowhere" / "features.npz"):
        with pytest.raises(UserError, match=r"out=.*ends in \.npz"):
            dinolab.embed("pixels", images, out, cache="none")
    with pytest.raises(UserError, match="there is no option patch; did you mean patches"):
        dinolab.embed("pixels", images, patch=True)
