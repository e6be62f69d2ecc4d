"""The explorer: a page in the browser that shows a set of images as an encoder sees them."""

import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinolab.config import keyword_options
from dinolab.errors import UserError, say
from dinolab.explore.options import ExploreOptions

if TYPE_CHECKING:
    from dinolab.explore.server import Server

PACKAGES = ("starlette", "uvicorn", "umap")  # of the extra


def explore(encoder: str | Path, data: str | Path, second: str | Path | None = None, **options: Any) -> "Server":
    """Serve the page in a thread, for as long as the process lives.

    Args:
        encoder: what `dinolab.load` takes, by name.
        data: images, as `data.path` takes them.
        second: another encoder, to compare both.
        options: see `dinolab explore --help`, all but `export`. By default no browser is opened, and no processes are started.

    Returns:
        The server, whose `address` is to be opened, and whose `close()` ends it.

    Raises:
        UserError: an option is wrong, an encoder or the images cannot be opened, or a package of the extra is missing.
    """
    values = {"open": False, "workers": 0, **options, "data": data}
    chosen = keyword_options(ExploreOptions, values, see="dinolab explore --help")
    server = open_server([str(word) for word in (encoder, second) if word], chosen)
    server.thread.start()
    return server


def open_server(models: Sequence[str], options: ExploreOptions) -> "Server":
    """A server that does not answer yet; features of all images are there.

    Its port is taken first: a wrong one is to be refused before features are computed, which may take long.
    """
    check_packages()
    from dinolab.explore.server import Server, listen
    from dinolab.explore.session import Session

    listening = listen(options.host, options.port)
    try:
        return Server(Session(models, options), options.host, listening)
    except BaseException:
        listening.close()
        raise


def run_explore(models: Sequence[str], options: ExploreOptions) -> None:
    """Serve the page until the process is interrupted, or export it. Raises UserError where the extra is not installed."""
    if options.export:
        check_packages()
        from dinolab.explore.export import export

        say(export(models, options, sys.stderr.isatty()))
        return
    server = open_server(models, options)
    print(f"the explorer is at {server.address} (Ctrl-C ends it)", flush=True)  # `say` would hide the token
    if options.open:
        webbrowser.open(server.address)
    server.run()


def check_packages() -> None:
    """Raises UserError where a package of the extra is missing; none is imported: UMAP takes seconds."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise UserError(f"the explorer needs {package}: pip install 'dinolab[explore]'")
