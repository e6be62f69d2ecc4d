"""Images that would be read wrong, or take all memory: each is read right, or is a BrokenImage that says what it is."""

import io
import logging
import os
import struct
import subprocess
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from torch.utils.data import Dataset

from dinolab.data import deep
from dinolab.data.addresses import IMAGES
from dinolab.data.decode import BrokenImage, decode, jpeg_size
from dinolab.data.headers import jpeg_frame, looks_like_image
from dinolab.data.loader import loaded, make_loader
from dinolab.errors import UserError
from tests.data.test_decode import close, encoded, picture
from tests.data.tiffs import tiff_of


@pytest.fixture(autouse=True)
def forget_warnings():
    deep.named[:] = bytes(2)


def png16(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()


def reason(data: bytes) -> str:
    with pytest.raises(BrokenImage) as caught:
        decode(data, "it.tif")
    assert "OpenCV(" not in caught.value.reason
    return caught.value.reason


RAMP = np.linspace(0, 1, 32 * 48).reshape(32, 48)


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_16_are_scaled_by_their_range_and_named_once(format, channels, caplog):
    values = np.rint(RAMP * 4080).astype(np.uint16)
    image = values if channels == 1 else np.stack([values, values[::-1], values[:, ::-1]], axis=2)
    data = png16(image) if format == "png" else tiff_of(np.atleast_3d(image), 1 if channels == 1 else 2)
    expected = np.rint(np.broadcast_to(np.atleast_3d(image), (32, 48, 3)) * (255 / 4095))
    for name in ("one.png", "two.png"):
        close(decode(data, name), expected, 1)
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in ("one.png", "4,080", "4,095", "DINOLAB_WHITE"))


def test_a_full_range_is_not_named_and_a_given_white_is_used(caplog, monkeypatch):
    values = np.rint(RAMP * 65535).astype(np.uint16)
    close(decode(png16(values), ""), np.repeat(values[..., None] / 257, 3, axis=2), 1)
    assert not caplog.records
    fourteen = np.rint(RAMP * 16383).astype(np.uint16)
    decode(png16(fourteen), "it.png")
    assert "16,383" in caplog.records[0].getMessage()
    monkeypatch.setenv("DINOLAB_WHITE", "16383")
    close(decode(png16(fourteen), ""), np.repeat(fourteen[..., None] * (255 / 16383), 3, axis=2), 1)
    monkeypatch.setenv("DINOLAB_WHITE", "much")
    with pytest.raises(UserError, match="DINOLAB_WHITE=much"):
        decode(png16(fourteen), "")


def test_signed_16_bits():
    values = np.rint(RAMP * 32767).astype(np.int16)[..., None]
    close(decode(tiff_of(values, 1), ""), np.repeat(values / 32767 * 255, 3, axis=2), 1)
    values[3, 4] = -70
    assert "negative values, down to -70" in reason(tiff_of(values, 1))


@pytest.mark.parametrize(
    ("image", "photometric", "extra", "words"),
    [
        (np.zeros((8, 8, 4), np.uint8), 2, None, "4 channels"),  # the fourth may be near infrared
        (np.zeros((8, 8, 4), np.uint8), 2, (0,), "4 channels"),
        (np.zeros((8, 8, 4), np.uint16), 2, None, "4 channels"),
        (np.zeros((8, 8, 4), np.uint8), 1, (0, 0, 0), "4 channels"),
        (np.zeros((8, 8, 5), np.uint8), 2, (0, 0), "5 channels"),
        (np.zeros((8, 8, 5), np.uint8), 2, (1, 0), "5 channels"),
        (np.zeros((8, 8, 13), np.uint16), 1, (0,) * 12, "13 channels"),
        (np.zeros((8, 8, 2), np.uint8), 1, None, "2 channels"),
        (np.zeros((8, 8, 3), np.uint8), 1, (0, 0), "3 channels, and no tag says that they are RGB"),
        (np.zeros((8, 8, 2), np.uint16), 1, (2,), "a TIFF of a kind that cannot be read"),
        (np.zeros((8, 8, 4), np.uint16), 5, None, "16 bits, and damaged or neither grey nor RGB"),
        (np.zeros((8, 8, 3), np.float32), 2, None, "floats of 32 bits"),
        (np.zeros((8, 8, 1), np.float32), 1, None, "floats of 32 bits"),
        (np.zeros((8, 8, 1), np.float64), 1, None, "floats of 64 bits"),
        (np.zeros((8, 8, 3), np.int16), 2, None, "signed whole numbers of 16 bits"),
        (np.zeros((8, 8, 1), np.uint32), 1, None, "whole numbers of 32 bits"),
    ],
)
def test_channels_that_are_no_colours(image, photometric, extra, words, capfd):
    assert words in reason(tiff_of(image, photometric, extra))
    assert capfd.readouterr() == ("", "")


def test_a_fourth_channel_that_a_tag_makes_transparency():
    image = np.dstack([picture(), np.zeros((32, 48), np.uint8)])
    assert (decode(tiff_of(image, 2, (2,)), "") == 255).all()
    close(decode(tiff_of(picture(), 2), ""), picture(), 0)


def transparent_png(**options) -> bytes:
    image = Image.fromarray(picture()).convert("RGBA")
    image.putalpha(Image.fromarray(np.zeros((32, 48), np.uint8)))
    return encoded(image, "PNG", **options)


def test_transparency_behind_texts_that_pillow_refuses():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("long", "x" * (2 << 20), zip=True)
    with pytest.raises(ValueError, match="large"):
        Image.open(io.BytesIO(transparent_png(pnginfo=texts)))
    assert (decode(transparent_png(pnginfo=texts), "") == 255).all()


def test_a_transparent_value_of_16_bits():
    values = np.full((4, 6), 40000, np.uint16)
    values[0, 0] = 50000
    image = Image.fromarray(values)
    image.info["transparency"] = 50000
    data = encoded(image, "PNG", transparency=50000)
    expected = np.full((4, 6, 3), 40000 >> 8)
    expected[0, 0] = 255
    close(decode(data, ""), expected, 1)


def test_transparency_and_12_bits():
    values = np.full((4, 6, 4), 4000, np.uint16)
    values[..., 3] = 65535
    assert "16 bits and transparency" in reason(cv2.imencode(".png", values)[1].tobytes())
    values[..., :3] = 40000
    close(decode(cv2.imencode(".png", values)[1].tobytes(), ""), np.full((4, 6, 3), 40000 >> 8), 1)


def test_too_many_pixels(monkeypatch):
    """A BMP of 1,080 bytes that declares 30,000 x 30,000, a PNG that Pillow opens, and both below a limit that is raised."""
    bmp = bytearray(encoded(Image.new("L", (1, 1)), "BMP").ljust(1080, b"\0"))
    bmp[18:26] = struct.pack("<ii", 30000, 30000)
    assert "DINOLAB_MAX_PIXELS" in reason(bytes(bmp))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("DINOLAB_MAX_PIXELS", str(10**12))
    assert "1,073,741,824" in reason(bytes(bmp))
    monkeypatch.setenv("DINOLAB_MAX_PIXELS", str(32 * 48 - 1))
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        assert "48 x 32 pixels" in reason(encoded(Image.fromarray(picture()), format))
    monkeypatch.setenv("DINOLAB_MAX_PIXELS", str(32 * 48))
    assert decode(encoded(Image.fromarray(picture()), "JPEG"), "").shape == (32, 48, 3)


def test_a_jpeg_whose_header_lies():
    data = bytearray(encoded(Image.fromarray(picture()), "JPEG"))
    assert jpeg_frame(bytes(data)) == (48, 32)
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 9000, 9000)
    assert "too many for" in reason(bytes(data))


def test_a_png_whose_lengths_lie():
    """OpenCV would take 4 GB for a chunk, or 500 MB for pixels that 100 bytes cannot hold."""
    data = bytearray(encoded(Image.fromarray(picture()), "PNG"))
    at = data.index(b"IDAT") - 4
    assert "cut short" in reason(bytes(data[:at]) + b"\xf8\0\0\0" + bytes(data[at + 4 :]))
    data[16:24] = struct.pack(">II", 13000, 13000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert "too many for" in reason(bytes(data))


def test_a_gif_of_a_few_bytes_and_many_pixels():
    data = bytearray(encoded(Image.fromarray(picture()), "GIF"))
    data[6:10] = struct.pack("<HH", 13000, 13000)
    assert "too many for" in reason(bytes(data))
    data[6:10] = struct.pack("<HH", 1300, 1300)
    assert decode(bytes(data), "").shape == (1300, 1300, 3)


@pytest.mark.parametrize("maximum", [255, 1023])
def test_a_pgm_cut_short(maximum):
    """NumPy makes an array of one object of an image that Pillow cannot load."""
    data = b"P5 64 64 %d\n" % maximum + bytes(8192)
    assert decode(data, "").shape == (64, 64, 3)
    reason(data[:2000])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "quality": 1}])
def test_no_honest_jpeg_is_taken_for_a_lie(options):
    """Nothing is smaller than one colour, which takes a bit or two for each block."""
    data = encoded(Image.new("L", (4000, 3000)), "JPEG", **options)
    assert decode(data, "").shape == (3000, 4000, 3)
    assert jpeg_size(data) == (3000, 4000)


@pytest.mark.parametrize("size", [(1, 1), (7, 300)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 40}])
def test_the_frame_of_a_jpeg_is_found(size, options):
    assert jpeg_frame(encoded(Image.new("RGB", size), "JPEG", **options)) == size


def test_no_program_is_started_for_an_image(monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: started.append(args))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    assert reason(eps) == "not an image"
    assert not started


@pytest.mark.parametrize("format", ["PPM", "JPEG2000", "AVIF", "DIB"])
def test_other_formats(format):
    options = {"quality": 100, "subsampling": "4:4:4"} if format == "AVIF" else {}
    close(decode(encoded(Image.fromarray(picture()), format, **options), ""), picture(), 8 if format == "AVIF" else 0)


def test_a_pgm_is_scaled_by_its_own_maximum():
    data = b"P5 2 1 1023\n" + struct.pack(">HH", 1023, 512)
    assert decode(data, "")[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("transparent", [False, True])
def test_a_png_with_a_damaged_text(transparent):
    """Pillow refuses it. OpenCV reads it, and would lose transparency."""
    whole = transparent_png() if transparent else encoded(Image.fromarray(picture()), "PNG")
    text = b"tEXtkey\0value"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text) ^ 1)
    data = whole[:33] + chunk + whole[33:]
    if transparent:
        reason(data)
    else:
        close(decode(data, ""), picture(), 0)


def test_heic_is_read_where_its_plugin_is_installed():
    plugin = pytest.importorskip("pillow_heif")
    image = picture()
    file = io.BytesIO()
    plugin.from_pillow(Image.fromarray(image)).save(file, quality=95)
    close(decode(file.getvalue(), "it.heic"), image, 6)
    assert looks_like_image(file.getvalue()[:16]) and ".heic" in IMAGES
    assert reason(file.getvalue()[:-100])


def test_heic_names_the_plugin_that_it_needs(monkeypatch):
    monkeypatch.setattr("dinolab.data.decode.HEIF", False)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert reason(data) == "HEIC, which needs pillow-heif: pip install pillow-heif"


class Odd(Dataset):
    """A damaged PNG and JPEG, and images of 12 bits, decoded by loading processes."""

    def __init__(self):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8))
        png, jpeg = encoded(noise, "PNG"), encoded(noise, "JPEG")
        self.damaged = [png[:300] + bytes(30) + png[330:], jpeg[:-400] + b"\xff\xd9"]
        self.dark = png16(np.rint(RAMP * 4080).astype(np.uint16))

    def __len__(self):
        return 8

    def __getitem__(self, n):
        for data in self.damaged:
            with suppress(BrokenImage):
                decode(data, "it.png")
        decode(self.dark, f"{n}.png")
        os.write(2, b"line\n")
        return n


def test_loading_processes_write_no_lines_of_decoders_and_warn_once_together(tmp_path, capfd):
    handler = logging.FileHandler(tmp_path / "log")
    deep.log.addHandler(handler)
    try:
        for _ in range(2):  # other processes each time
            assert list(loaded(make_loader(Odd(), 2, batch_size=None), "")) == list(range(8))
    finally:
        deep.log.removeHandler(handler)
        handler.close()
    assert capfd.readouterr().err == 16 * "line\n"
    assert (tmp_path / "log").read_text().count("DINOLAB_WHITE") == 1
