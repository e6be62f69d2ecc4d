"""A few images, a run with kept checkpoints and another encoder, and the explorer's answers about them."""

import shutil
import threading
from contextlib import contextmanager

import pytest

from dinolab.explore.options import ExploreOptions
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.runs.train import train
from dinolab.weights.load import save_encoder
from tests.browsing import new_page
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


@contextmanager
def serving(session):
    """The address, with the token, where a session is served.

    Use it in a fixture of a module: it then ends after the pages of `opened` are closed, whose requests it may still
    have to answer.
    """
    import uvicorn

    from dinolab.explore.server import make_app, socket

    listening = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(make_app(session, "secret", [host]), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}/?token=secret"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def opened(browser):
    """Opens pages and waits until they are ready; at the end none of them may have complained."""
    pages = []

    def open_page(address, width=1280, dark=False, routes=None, requests=None):
        seen = new_page(browser, width, dark)
        for path, answer in (routes or {}).items():
            seen.page.route(path, answer)
        pages.append(seen)
        seen.page.goto(address)
        seen.page.wait_for_selector("body[data-ready]", state="attached")
        if requests is not None:
            seen.page.on("request", lambda request: requests.append(request.url))
            requests += seen.requests
        return seen.page

    yield open_page
    for seen in pages:
        seen.page.close()
    assert [complaint for seen in pages for complaint in seen.complaints] == []
