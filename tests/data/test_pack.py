"""Packing: the same images, smaller, with their labels and in their order; whole or not there."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dinolab.cli import main
from dinolab.data.decode import read_image
from dinolab.data.pack import in_order, pack
from dinolab.data.sources import open_source
from dinolab.data.storage import read_bytes
from dinolab.data.types import Source
from dinolab.errors import UserError
from tests.data.tars import write_tar
from tests.pictures import make_folder


def jpeg(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def picture(height: int, width: int) -> np.ndarray:
    """Colours change slowly, so JPEG loses little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], -1).astype(np.uint8)


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def decoded(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def overlaps(n: int, out: int) -> np.ndarray:
    """(out, n): the share that each of n pixels has in each of `out` pixels that cover them."""
    edges = np.arange(out + 1)[:, None] * n / out
    covered = np.clip(edges - np.arange(n), 0, 1)  # of each pixel, left of each edge
    return (covered[1:] - covered[:-1]) * out / n


@pytest.mark.parametrize("short_side", [96, 32, 16, 8])  # of 128: JPEGs are decoded at 1/1, 1/2, 1/4, 1/8 first
def test_pixels_are_means_over_areas(har, tmp_path, short_side):
    paths = sorted(str(path) for path in (har / "train").iterdir())[:12]
    pack(Source("photos", paths, None, []), tmp_path / "out", short_side, quality=100)
    packed = list(members(tmp_path / "out").values())
    assert len(packed) == len(paths)
    for path, data in zip(paths, packed):
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB")) @ [0.299, 0.587, 0.114]  # JPEG keeps brightness, and halves colour
        height, width = (round(side * short_side / min(pixels.shape)) for side in pixels.shape)
        expected = overlaps(pixels.shape[0], height) @ pixels @ overlaps(pixels.shape[1], width).T
        actual = decoded(data) @ [0.299, 0.587, 0.114]
        assert actual.shape == (height, width)
        assert min(actual.shape) == short_side
        assert np.abs(actual - expected).mean() < 1
        assert np.abs(actual - expected).max() < 7


def test_labels_and_order(tmp_path):
    folder = open_source(str(make_folder(tmp_path / "images", per_class=7, classes=3, side=40)))
    order = np.random.default_rng(0).permutation(len(folder))
    assert folder.labels is not None
    source = Source("mixed", [folder.paths[i] for i in order], folder.labels[order], folder.classes)
    figures = pack(source, tmp_path / "out", short_side=32, workers=3)
    files = members(tmp_path / "out")
    assert list(files) == [f"{n:09d}.{kind}" for n in range(21) for kind in ("jpg", "cls")]
    assert [files[f"{n:09d}.cls"].decode() for n in range(21)] == [folder.classes[folder.labels[i]] for i in order]
    for n, path in enumerate(source.paths):
        expected = cv2.resize(read_image(path), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(decoded(files[f"{n:09d}.jpg"]).mean((0, 1)) - expected.mean((0, 1))).max() < 2
    assert {key: figures[key] for key in ("images", "kept", "broken", "shards")} == {
        "images": 21, "kept": 0, "broken": 0, "shards": 1,
    }  # fmt: skip
    assert figures["bytes_before"] == sum(os.path.getsize(path) for path in source.paths)
    assert figures["bytes_after"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    packed = open_source(str(tmp_path / "out"), need_labels=True)
    assert packed.classes == source.classes
    assert packed.labels is not None
    assert packed.labels.tolist() == folder.labels[order].tolist()


def test_the_webdataset_library_reads_it(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    pack(open_source(str(make_folder(tmp_path / "images"))), tmp_path / "out")
    shards = [str(path) for path in sorted((tmp_path / "out").iterdir())]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8", only="jpg"))
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(24)]
    assert [sample["cls"] for sample in samples] == [b"class0"] * 12 + [b"class1"] * 12
    assert all(sample["jpg"].shape == (24, 24, 3) for sample in samples)


def test_packed_again_is_the_same(tmp_path):
    """Shards are a source of pack, too; nothing is left to shrink."""
    pack(
        open_source(str(make_folder(tmp_path / "images", side=40))), tmp_path / "once", short_side=32, shard_size=30000
    )
    figures = pack(open_source(str(tmp_path / "once")), tmp_path / "twice", short_side=32, shard_size=30000)
    assert figures["kept"] == figures["images"] == 24
    for shard in (tmp_path / "once").iterdir():
        assert (tmp_path / "twice" / shard.name).read_bytes() == shard.read_bytes()


def test_what_is_small_keeps_its_size(tmp_path):
    small = picture(24, 32)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # to be turned a quarter clockwise
    upright = Image.Exif()
    upright[0x0112] = 1
    contents = {
        "0.jpg": jpeg(small, quality=30),
        "1.jpg": jpeg(small, quality=95, exif=rotated),
        "2.jpg": jpeg(small, quality=30, exif=upright),
        "3.jpg": jpeg(picture(32, 32), quality=30),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    Image.fromarray(small).save(tmp_path / "4.png")
    figures = pack(open_source(str(tmp_path)), tmp_path / "out", short_side=32)
    packed = list(members(tmp_path / "out").values())
    assert [packed[n] == contents[f"{n}.jpg"] for n in range(4)] == [True, False, True, True]
    assert figures["kept"] == 3
    turned = np.rot90(small, -1)
    assert np.abs(decoded(packed[1]).astype(int) - turned).mean() < 4
    assert np.array(Image.open(io.BytesIO(packed[1])).getexif().get(0x0112, 1)) == 1
    assert np.abs(decoded(packed[4]).astype(int) - small).mean() < 4


def test_shards_end_before_they_are_too_large(tmp_path):
    source = open_source(str(make_folder(tmp_path / "images", per_class=20)))
    figures = pack(source, tmp_path / "out", shard_size=25000)
    sizes = [shard.stat().st_size for shard in sorted((tmp_path / "out").iterdir())]
    assert len(sizes) == figures["shards"] > 2
    assert max(sizes) <= 25000
    assert min(sizes[:-1]) > 10000
    assert len(open_source(str(tmp_path / "out"))) == 40
    pack(source, tmp_path / "single", shard_size=1)  # an image that is larger than a shard has one of its own
    assert len(list((tmp_path / "single").iterdir())) == 40


def test_broken_images_are_named_and_left_out(tmp_path, caplog):
    source = open_source(str(make_folder(tmp_path / "images", per_class=6)))
    for n in (1, 3, 4, 5, 8, 9, 11):
        Path(source.paths[n]).write_bytes(b"no picture")
    figures = pack(source, tmp_path / "out")
    assert (figures["images"], figures["broken"]) == (5, 7)
    assert [name for name in members(tmp_path / "out") if name.endswith("jpg")] == [
        f"{n:09d}.jpg" for n in (0, 2, 6, 7, 10)
    ]
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("ATTENTION")
    assert "7 of 12" in message
    assert [path in message for path in source.paths] == [n in (1, 3, 4, 5, 8) for n in range(12)]
    assert "2 more" in message


def test_few_broken_images_are_no_alarm(tmp_path, caplog):
    small = str(make_folder(tmp_path / "images", per_class=1, classes=1) / "class0/000.png")
    pack(Source("many", [small] * 100 + [str(tmp_path / "gone.jpg")], None, []), tmp_path / "out")
    (record,) = caplog.records
    assert record.getMessage().startswith("many: 1 of 101")
    assert "gone.jpg" in record.getMessage()


def test_too_wide_for_a_jpeg(tmp_path, caplog):
    Image.new("RGB", (70000, 2)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "good.png")
    assert pack(open_source(str(tmp_path)), tmp_path / "out")["images"] == 1
    assert "70000 x 2" in caplog.records[0].getMessage()


def refusal(source: Source, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        pack(source, out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(tmp_path):
    source = open_source(str(make_folder(tmp_path / "images", per_class=1)))
    (tmp_path / "there").mkdir()
    assert str(tmp_path / "there") in refusal(source, tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert str(tmp_path / "link") in refusal(source, tmp_path / "link")
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(source, tmp_path / "file/out")
    write_tar(tmp_path / "mine.partial/shard-000000.tar", {"1.jpg": b"x"})
    (tmp_path / "mine.partial/thesis.txt").write_text("all my work")
    assert "thesis.txt" in refusal(source, tmp_path / "mine")
    assert {"thesis.txt", "shard-000000.tar"} <= set(os.listdir(tmp_path / "mine.partial"))
    assert not (tmp_path / "mine").exists()
    lost = Source("lost", [str(tmp_path / "gone.jpg")] * 2, None, [])
    assert "gone.jpg" in refusal(lost, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [["cat", "cat "], [" "]])
def test_labels_that_shards_would_merge_are_refused(tmp_path, classes):
    lost = Source("it", ["/1.jpg"] * 2, np.zeros(2, np.int64), classes)
    assert repr(classes[-1]) in refusal(lost, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


WAITING = """
import sys
from dinolab.cli import main
from dinolab.data import storage
read, pipe = storage.read_regular, sys.argv.pop(1)
storage.read_regular = lambda path: open(pipe, "rb").read() if path.endswith("zzz.png") else read(path)
sys.exit(main())
"""


@pytest.mark.slow
def heed_ctrl_c() -> None:
    """Also where the tests themselves run in the background of a shell, which makes all below them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted(tmp_path, caplog):
    """A pack that waits for its last image, a pipe, is killed, then stopped by Ctrl-C; without the pipe it then succeeds."""
    folder, out = make_folder(tmp_path / "images", per_class=8), tmp_path / "out"
    last, pipe = folder / "class1/zzz.png", tmp_path / "pipe"
    last.touch()
    os.mkfifo(pipe)
    source = open_source(str(folder))
    for stop in (signal.SIGKILL, signal.SIGINT):
        command = [sys.executable, "-c", WAITING, str(pipe), "data", "pack", str(folder), str(out)]
        started = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,
        )
        with started as process:
            writer = os.open(pipe, os.O_WRONLY)  # returns when pack opens the other end
            assert "another process" in refusal(source, out)
            process.send_signal(stop)
            if stop != signal.SIGINT:
                process.wait()
            os.close(writer)  # Ctrl-C waits for images that are being read
            stdout, stderr = process.communicate()
        assert process.returncode == (130 if stop == signal.SIGINT else -stop)
        assert stdout == ""
        assert ("starting over" in stderr) == (stop != signal.SIGKILL)  # the first had nothing to start over from
        assert not out.exists()
        assert (tmp_path / "out.partial/shard-000000.tar").exists()
    last.unlink()
    assert pack(source, out)["images"] == 16
    assert "starting over" in caplog.records[0].getMessage()
    assert os.listdir(out) == ["shard-000000.tar"]
    assert not (tmp_path / "out.partial").exists()


def test_in_order_and_not_far_ahead():
    taken, lock = [], threading.Lock()

    def items():
        for n in range(50):
            with lock:
                taken.append(n)
            yield n

    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 2e-3, 50)
    done = []
    with ThreadPoolExecutor(4) as pool:
        for result in in_order(pool, lambda n: (threading.Event().wait(delays[n]), n)[1], items(), ahead=7):
            done.append(result)
            assert len(taken) <= len(done) + 7
    assert done == list(range(50))


def test_command_line(tmp_path, capsys):
    make_folder(tmp_path / "images", side=40)
    arguments = ["data", "pack", str(tmp_path / "images"), str(tmp_path / "out")]
    assert main([*arguments, "short_side=20", "shard_size=30K", "quality=50", "workers=1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "24 images" in out
    assert "2 classes" in out
    shards = sorted((tmp_path / "out").iterdir())
    assert [shard.stat().st_size <= 30000 for shard in shards] == [True] * 4
    assert [decoded(read_bytes(path)).shape for path in open_source(str(tmp_path / "out")).paths] == [(20, 20, 3)] * 24
    assert main(arguments) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    for wrong in (
        "shard_size=1T",
        "shard_size=0",
        "quality=0",
        "quality=101",
        "short_side=0",
        "workers=-1",
    ):
        assert main([*arguments, wrong]) == 2
        assert wrong.split("=")[0] in capsys.readouterr().err


def test_columns_of_a_csv(tmp_path):
    make_folder(tmp_path / "images", per_class=2, classes=1)
    (tmp_path / "images/all.csv").write_text("file,kind\n000.png,cat\n001.png,dog\n")
    arguments = ["data", "pack", str(tmp_path / "images/all.csv"), str(tmp_path / "out")]
    assert main([*arguments, "filename_column=file", "label_column=kind"]) == 0
    assert open_source(str(tmp_path / "out")).classes == ["cat", "dog"]
