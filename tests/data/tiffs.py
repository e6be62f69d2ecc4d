"""TIFF files for tests, written plainly: Pillow and OpenCV write only some kinds."""

import struct

import numpy as np

KINDS = {"u": 1, "i": 2, "f": 3}  # SampleFormat


def tiff_of(image: np.ndarray, photometric: int = 2, extra: tuple[int, ...] | None = None, **tags: int) -> bytes:
    """An uncompressed little-endian TIFF of an array (H, W, channels) of any type.

    Args:
        extra: values of the tag ExtraSamples; None leaves the tag out.
        tags: other values, as height=1000 for a header that lies.
    """
    height, width, channels = image.shape
    pixels = image.astype(image.dtype.newbyteorder("<")).tobytes()
    bits = (8 * image.itemsize,) * channels
    fields: list[tuple[int, int, tuple[int, ...]]] = [
        (256, 4, (tags.get("width", width),)), (257, 4, (tags.get("height", height),)), (258, 3, bits), (259, 3, (1,)),
        (262, 3, (photometric,)), (273, 4, (8,)), (277, 3, (channels,)), (278, 4, (height,)), (279, 4, (len(pixels),)),
    ]  # fmt: skip
    if extra is not None:
        fields.append((338, 3, extra))
    fields.append((339, 3, (KINDS[image.dtype.kind],) * channels))
    directory = 8 + len(pixels)
    behind = directory + 2 + 12 * len(fields) + 4
    entries, values = b"", b""
    for tag, kind, content in fields:
        packed = struct.pack(f"<{len(content)}{'H' if kind == 3 else 'I'}", *content)
        if len(packed) > 4:
            entries += struct.pack("<HHII", tag, kind, len(content), behind + len(values))
            values += packed
        else:
            entries += struct.pack("<HHI", tag, kind, len(content)) + packed.ljust(4, b"\0")
    return (
        struct.pack("<2sHI", b"II", 42, directory)
        + pixels
        + struct.pack("<H", len(fields))
        + entries
        + bytes(4)
        + values
    )
