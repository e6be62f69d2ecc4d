"""Pages in a headless Chromium that reaches nothing but this machine, and what they complain about."""

import shutil
from typing import Any, NamedTuple

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics processor
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Seen(NamedTuple):
    """A page that is loading, what its console and its scripts complain about, and the addresses that it asks for."""

    page: Any
    complaints: list[str]
    requests: list[str]


def new_page(browser: Any, width: int = 1280, dark: bool = False) -> Seen:
    """An empty page of a screen of this width, in a light or dark theme."""
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    seen = Seen(page, [], [])
    page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    return seen
