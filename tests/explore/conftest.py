"""A few images, a run with kept checkpoints and another encoder, and the explorer's answers about them."""

import shutil

import pytest

from dinolab.explore.options import ExploreOptions
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.runs.train import train
from dinolab.weights.load import save_encoder
from tests.pictures import TINY, make_folder

NASTY = """<img src=x onerror="document.title='hit'">&amp;,'.png"""


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Three classes of twelve images, one of which has a name that is HTML."""
    folder = make_folder(tmp_path_factory.mktemp("explored") / "images", classes=3, side=32)
    shutil.move(folder / "class1" / "003.png", folder / "class1" / NASTY)
    return folder


@pytest.fixture(scope="session")
def encoders(images, tmp_path_factory):
    """A run with three kept checkpoints, and another encoder with larger patches."""
    folder = tmp_path_factory.mktemp("encoders")
    words = [f"data.path={images}", f"run.dir={folder / 'mine'}", "run.keep=3"]
    made = train("dino_vits16", *[word for word in TINY if "ibot" not in word], *words)
    save_encoder(ViT(Model(dim=24, depth=1, heads=3, patch_size=8), 32), folder / "other", {})
    return [str(made), str(folder / "other")]


@pytest.fixture(scope="session")
def options(images, tmp_path_factory):
    cache = tmp_path_factory.mktemp("explorer") / "cache"
    return ExploreOptions(data=str(images), open=False, cache=str(cache), device="cpu", workers=0)


@pytest.fixture(scope="session")
def session(encoders, options):
    pytest.importorskip("starlette")
    from dinolab.explore.session import Session

    return Session(encoders, options)
