"""The explorer: a page in the browser that shows a set of images as an encoder sees them."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from dinolab.errors import UserError, say
from dinolab.explore.options import ExploreOptions


def run_explore(models: Sequence[str], options: ExploreOptions) -> None:
    """Serve the page until the process is interrupted, or export it. Raises UserError where the extra is not installed."""
    for package in ("starlette", "uvicorn", "umap"):  # found, not imported: UMAP takes seconds
        if find_spec(package) is None:
            raise UserError(f"the explorer needs {package}: pip install 'dinolab[explore]'")
    from dinolab.explore.export import export
    from dinolab.explore.server import serve
    from dinolab.explore.session import Session

    if options.export:
        say(export(models, options, sys.stderr.isatty()))
        return
    serve(Session(models, options), options.host, options.port, options.open)
