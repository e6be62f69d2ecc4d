"""The text of a CSV or text file, in whatever encoding it was written."""

import logging
import os

from dinolab.errors import UserError

MOST_BYTES = 1 << 30  # of a file that lists images

log = logging.getLogger(__name__)


def read_text(file: str, named: str) -> str:
    """The text of a file in UTF-8, in UTF-16 with its mark, or else in Windows' Latin-1, with a warning.

    Args:
        named: the option and its value, for messages.

    Raises:
        UserError: the file is too large, or holds no text.
        OSError: it cannot be read.
    """
    if os.path.getsize(file) > MOST_BYTES:
        raise UserError(f"{named}: {os.path.getsize(file):,} bytes are too many for a list of images")
    with open(file, "rb") as opened:
        data = opened.read()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    if b"\0" in data:
        raise UserError(f"{named}: no text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        log.warning("%s: not UTF-8 (byte %d); it is read as Latin-1", named, error.start)
        return data.decode("cp1252", errors="replace")
