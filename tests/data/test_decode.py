"""Every format and every kind of damage, written with Pillow."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinolab.data.decode import BrokenImage, decode, jpeg_size, read_file, read_image

RED, BLUE, GREEN, BLACK = (200, 40, 10), (20, 90, 220), (30, 160, 60), (0, 0, 0)


def picture() -> np.ndarray:
    """32 high, 48 wide, four corners of different colours: no two orientations look alike."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = RED, BLUE, GREEN, BLACK
    return image


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def read(folder: Path, data: bytes) -> np.ndarray:
    path = folder / "image"  # no extension: the content decides
    path.write_bytes(data)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    return image


def close(image: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("GIF", {}, 0),
    ],
)
def test_colour(tmp_path, format, options, tolerance):
    close(read(tmp_path, encoded(Image.fromarray(picture()), format, **options)), picture(), tolerance)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_grey(tmp_path, format):
    grey = Image.fromarray(picture()).convert("L")
    close(read(tmp_path, encoded(grey, format)), np.repeat(np.array(grey)[..., None], 3, axis=2), 6)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_palette(tmp_path, format):
    close(read(tmp_path, encoded(Image.fromarray(picture()).quantize(8), format)), picture(), 0)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(tmp_path, format):
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    close(read(tmp_path, encoded(Image.fromarray(picture()).convert("CMYK"), format, **options)), picture(), 6)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_shows_white(tmp_path, format, mode):
    if (mode, format) == ("LA", "WEBP"):
        pytest.skip("WebP knows no grey")
    image = Image.fromarray(picture()).convert(mode)
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, :8], alpha[:, 8:16] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    share = alpha[..., None] / 255
    opaque = np.array(Image.fromarray(picture()).convert("RGB" if mode == "RGBA" else "L").convert("RGB"))
    expected = np.rint(opaque * share + 255 * (1 - share)).astype(int)
    close(read(tmp_path, encoded(image, format, **({"lossless": True} if format == "WEBP" else {}))), expected, 1)


def test_transparent_colours_of_png_and_gif_show_white(tmp_path):
    expected = picture()
    expected[:16, :24] = 255
    close(read(tmp_path, encoded(Image.fromarray(picture()), "PNG", transparency=RED)), expected, 0)
    palette = Image.fromarray(picture()).quantize(8)
    hidden = palette.getpixel((0, 0))
    for format in ("PNG", "GIF"):
        close(read(tmp_path, encoded(palette, format, transparency=hidden)), expected, 0)


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled(tmp_path, extension, channels):
    levels = np.linspace(0, 65535, 32 * 48).reshape(32, 48).round().astype(np.uint16)
    image = levels if channels == 1 else np.stack([levels, levels[::-1], levels.T.reshape(32, 48)], axis=2)
    ok, data = cv2.imencode(extension, image if channels == 1 else image[..., ::-1])
    assert ok
    expected = np.rint((image[..., None] if channels == 1 else image) / 257).astype(int)
    close(read(tmp_path, data.tobytes()), np.broadcast_to(expected, (32, 48, 3)), 1)


# What the stored picture must look like for each orientation to come out upright.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [("JPEG", {"quality": 95, "subsampling": 0}, 6), ("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("TIFF", {}, 0)],
)
def test_exif_orientation(tmp_path, orientation, format, options, tolerance):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture())))
    close(read(tmp_path, encoded(stored, format, exif=exif, **options)), picture(), tolerance)


def test_exif_orientation_of_a_transparent_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture()))).convert("RGBA")
    close(read(tmp_path, encoded(stored, "PNG", exif=exif)), picture(), 0)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
def test_first_frame(tmp_path, format):
    first = Image.fromarray(picture())
    second = Image.fromarray(255 - picture())
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second, second], **options)
    close(read(tmp_path, data), picture(), 0)


def stored_as(orientation: int, image: np.ndarray, **options) -> bytes:
    """A JPEG that comes out as `image` once upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED.get(orientation, STORED[1])(image)))
    return encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 50), (1, 7), (65, 9)])
def test_size_and_reduced_decoding_of_a_jpeg(orientation, height, width):
    """Sides are rounded up, whichever way the camera was held."""
    data = stored_as(orientation, np.full((height, width, 3), RED, np.uint8))
    assert jpeg_size(data) == (height, width) == decode(data, "").shape[:2]
    for reduction in (1, 2, 4, 8):
        image = decode(data, "", reduction)
        assert image.shape == (-(-height // reduction), -(-width // reduction), 3)
        assert image.flags.c_contiguous
        assert np.abs(image.astype(int) - RED).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_decoding_is_the_mean_of_blocks(orientation, reduction, progressive):
    smooth = cv2.resize(picture(), (96, 64), interpolation=cv2.INTER_CUBIC)
    expected = cv2.resize(smooth, (96 // reduction, 64 // reduction), interpolation=cv2.INTER_AREA)
    image = decode(stored_as(orientation, smooth, progressive=progressive), "", reduction)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 6 << 8])
def test_size_of_a_jpeg_with_a_senseless_orientation(orientation):
    data = stored_as(orientation, picture())
    assert jpeg_size(data) in (None, decode(data, "").shape[:2])


def test_size_of_a_jpeg_with_an_orientation_that_only_xmp_has():
    data = encoded(Image.fromarray(picture()), "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    assert jpeg_size(data) in (None, decode(data, "").shape[:2])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_reduced_decoding_of_grey_and_cmyk(mode, reduction):
    data = encoded(Image.fromarray(picture()).convert(mode), "JPEG", quality=95)
    expected = cv2.resize(np.array(Image.fromarray(picture()).convert(mode).convert("RGB")), (48 // reduction, 32 // reduction),
                          interpolation=cv2.INTER_AREA)  # fmt: skip
    assert jpeg_size(data) == (32, 48)
    image = decode(data, "", reduction)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() <= 3


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_only_a_jpeg_has_a_size_and_is_reduced(format):
    data = encoded(Image.fromarray(picture()), format, **({"lossless": True} if format == "WEBP" else {}))
    assert jpeg_size(data) is None
    close(decode(data, "", 8), picture(), 0)
    assert decode(encoded(Image.fromarray(picture()).convert("RGBA"), "PNG"), "", 8).shape == (32, 48, 3)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_no_size(data):
    assert jpeg_size(data) is None


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_jpeg_cut_short_is_broken_at_any_reduction(tmp_path, share):
    whole = encoded(noise(), "JPEG")
    cut = whole[: int(len(whole) * share)]
    path = tmp_path / "image.jpg"
    path.write_bytes(cut)
    with pytest.raises(BrokenImage, match="cut short"):
        read_file(path)
    for reduction in (1, 2, 4, 8):
        with pytest.raises(BrokenImage):
            decode(cut, path, reduction)
    path.write_bytes(whole)
    assert read_file(path) == whole


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_cut_short(tmp_path, format, share):
    data = encoded(noise(), format)
    with pytest.raises(BrokenImage):
        read(tmp_path, data[: int(len(data) * share)])


def test_jpeg_without_its_end(tmp_path):
    with pytest.raises(BrokenImage, match="cut short"):
        read(tmp_path, encoded(noise(), "JPEG")[:-2])


def test_damaged_png(tmp_path):
    data = bytearray(encoded(noise(), "PNG"))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(BrokenImage):
        read(tmp_path, bytes(data))


def test_32_bits_of_unknown_range(tmp_path):
    with pytest.raises(BrokenImage, match="32 bits"):
        read(tmp_path, encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"hello", "not an image"), (b"\xff\xd8", "cut short")]
)
def test_reason(tmp_path, data, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(BrokenImage) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(reason)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)


def test_vanished(tmp_path):
    with pytest.raises(BrokenImage, match="no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(BrokenImage, match="directory"):
        read_image(tmp_path)


def test_decoders_are_silent(tmp_path, capfd):
    for format in ("PNG", "WEBP", "TIFF", "GIF"):
        data = encoded(noise(), format)
        with pytest.raises(BrokenImage):
            read(tmp_path, data[: len(data) // 2])
    assert capfd.readouterr() == ("", "")
