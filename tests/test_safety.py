"""Files from strangers: whatever is opened to look at, evaluate, export or resume runs no code, and a damaged file is named."""

import json
import logging
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

import dinolab
from dinolab import parallel
from dinolab.cli import log_handler, main
from dinolab.errors import UserError, mask, masked
from dinolab.rundir import RunFolder
from dinolab.training import checkpoint
from tests.pictures import TINY, fit_words, make_folder


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable, tuple[Any, ...]]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(Path(__file__).parent / "fixtures" / "earlier.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "earlier"


@pytest.fixture
def run(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose checkpoint, at step 6, was written before everything in it was a tensor."""
    copy = shutil.copytree(unpacked, tmp_path / "earlier")
    monkeypatch.chdir(copy)
    return RunFolder(copy / "dino")


def metadata_runs_code(place: Path, marker: Path) -> None:
    (place / ".metadata").write_bytes(pickle.dumps(Marker(marker)))


def metadata_with_a_marker_inside(place: Path, marker: Path) -> None:
    content = pickle.loads((place / ".metadata").read_bytes())
    content.storage_meta = Marker(marker)
    (place / ".metadata").write_bytes(pickle.dumps(content))


def metadata_names_a_function(place: Path, marker: Path) -> None:
    """A dotted name leads from an allowed module to another one."""
    call = f"cdinolab.weights.metadata\nPath.touch\n(cpathlib\nPosixPath\n(V{marker}\ntRtR."
    (place / ".metadata").write_bytes(b"\x80\x04" + call.encode())


def value_runs_code(place: Path, marker: Path) -> None:
    """Tensors that are stored as pickles: PyTorch would unpickle them."""
    content = pickle.loads((place / ".metadata").read_bytes())
    torch.save(Marker(marker), place / "__9_9.distcp")
    for index, info in content.storage_data.items():
        if index.fqn in ("step", "broken", "method.centre", "method.teacher.backbone.cls_token"):
            content.state_dict_metadata[index.fqn] = BytesStorageMetadata()
            info.relative_path, info.offset = "__9_9.distcp", 0
            info.length = (place / "__9_9.distcp").stat().st_size
    (place / ".metadata").write_bytes(pickle.dumps(content))


def tensor_runs_code(place: Path, marker: Path) -> None:
    """The file of a tensor holds a pickle that is no tensor."""
    content = pickle.loads((place / ".metadata").read_bytes())
    torch.save(Marker(marker), place / "__9_9.distcp")
    for info in content.storage_data.values():
        info.relative_path, info.offset = "__9_9.distcp", 0
        info.length = (place / "__9_9.distcp").stat().st_size
    (place / ".metadata").write_bytes(pickle.dumps(content))


ATTACKS = [
    metadata_runs_code,
    metadata_with_a_marker_inside,
    metadata_names_a_function,
    value_runs_code,
    tensor_runs_code,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_checkpoint_runs_no_code(
    attack: Callable[[Path, Path], None], run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place,) = checkpoint.checkpoints(run.checkpoints)
    marker = tmp_path / "marker"
    attack(place, marker)
    for folder in (run.weights, run.path):  # the product itself opens
        dinolab.load(folder)
    with pytest.raises(UserError, match=r"this checkpoint cannot be read|does not fit its model\.json"):
        dinolab.load(place)
    words = [
        ["report", str(run.path), "photos=true"],
        ["export", str(place), "to=safetensors"],
        ["embed", str(place), "data=images", "out=embedded.npz"],
        ["train", str(run.path), "resume=true", "run.device=cpu"],
    ]
    ends = [main(command) for command in words]
    assert ends == [0, 2, 2, 2]
    assert not marker.exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("attack", ATTACKS[:4])
def test_the_attacks_work_on_pytorch_itself(
    attack: Callable[[Path, Path], None], run: RunFolder, tmp_path: Path
) -> None:
    """Otherwise the test above would show nothing."""
    (place,) = checkpoint.checkpoints(run.checkpoints)
    attack(place, tmp_path / "marker")
    with suppress(AttributeError):  # some attacks leave no metadata behind
        dcp.FileSystemReader(place).read_metadata()
    if attack is value_runs_code:
        dcp.load({"step": 0}, checkpoint_id=place)
    assert (tmp_path / "marker").exists()


def test_a_value_that_is_no_tensor_is_not_opened(run: RunFolder, tmp_path: Path) -> None:
    """Earlier checkpoints hold the step as a pickle: a run goes on without reading it."""
    (place,) = checkpoint.checkpoints(run.checkpoints)
    content = pickle.loads((place / ".metadata").read_bytes())
    torch.save(Marker(tmp_path / "marker"), place / "__9_9.distcp")
    info = next(info for index, info in content.storage_data.items() if index.fqn == "step")
    info.relative_path, info.offset, info.length = "__9_9.distcp", 0, (place / "__9_9.distcp").stat().st_size
    (place / ".metadata").write_bytes(pickle.dumps(content))
    assert main(["train", str(run.path), "resume=true", "run.device=cpu", "run.pictures=false"]) == 0
    assert not (tmp_path / "marker").exists()
    newest = checkpoint.checkpoints(run.checkpoints)[-1]
    described = dcp.FileSystemReader(newest).read_metadata().state_dict_metadata
    assert not any(isinstance(found, BytesStorageMetadata) for found in described.values())


@pytest.mark.parametrize("damage", ["flip", "lost", "checksums"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    damage: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(run.path), "resume=true", "run.device=cpu", "run.pictures=false"]
    assert main(words) == 0
    earlier, newest = checkpoint.checkpoints(run.checkpoints)
    data = newest / "__0_0.distcp"
    if damage == "flip":  # one bit of a weight: PyTorch reads it without a word
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "lost":
        data.unlink()
    else:
        (newest / "checksums.json").write_text("[]")
    with pytest.raises(UserError, match="this checkpoint cannot be read"):
        dinolab.load(newest)
    assert main(words) == 0
    log = run.log.read_text()
    assert f"{newest.name}: this checkpoint cannot be read" in log and f"resumed from {earlier}" in log
    assert (newest.parent / f"{newest.name}.unreadable").is_dir() and newest.is_dir()


@pytest.mark.parametrize(
    "name", ["../dino/config.yaml", "..", "/etc/passwd", "a/b", ""], ids=["up", "parent", "absolute", "inside", "empty"]
)
def test_a_checkpoint_names_no_files_elsewhere(name: str, run: RunFolder) -> None:
    (place,) = checkpoint.checkpoints(run.checkpoints)
    content = pickle.loads((place / ".metadata").read_bytes())
    next(iter(content.storage_data.values())).relative_path = name
    (place / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="lies outside of the checkpoint"):
        dinolab.load(place)


def test_a_huge_tensor_takes_no_memory(run: RunFolder) -> None:
    (place,) = checkpoint.checkpoints(run.checkpoints)
    content = pickle.loads((place / ".metadata").read_bytes())
    content.state_dict_metadata["method.teacher.backbone.cls_token"].size = torch.Size([1, 1, 1 << 40])
    (place / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="is larger than the checkpoint's files"):
        dinolab.load(place)


def test_weights_that_are_more_than_tensors_are_refused_in_one_line(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"weights": torch.zeros(2), "more": Marker(marker)}, tmp_path / "weights.pth")
    folder = tmp_path / "hf"
    folder.mkdir()
    torch.save({"weights": torch.zeros(2), "more": Marker(marker)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1}))
    for source in (tmp_path / "weights.pth", f"hf:{folder}", f"timm:vit_tiny_patch16_224={tmp_path / 'weights.pth'}"):
        with pytest.raises(UserError, match="holds more than tensors") as error:
            dinolab.load(source)
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert not marker.exists()


ADDRESS = "ftp://user:swordfish@127.0.0.1:1/shards-000.tar?access_token=swordfish&part=1"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The remote addresses that are opened, instead of opening them."""
    found: list[str] = []

    def url_to_fs(address: str, **_: Any) -> Any:
        found.append(address)
        raise OSError(f"no answer from {address}")

    monkeypatch.setattr("fsspec.core.url_to_fs", url_to_fs)
    return found


def files_with(folder: Path, text: str) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_a_report_opens_nothing_remote_unless_asked_and_shows_no_credentials(
    run: RunFolder, opened: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = run.config.read_text().replace("path: images", f"path: {ADDRESS}")
    run.config.write_text(text.replace("train: ''", f"train: {ADDRESS}").replace("test: ''", f"test: {ADDRESS}"))
    assert main(["report", str(run.path)]) == 0 and not opened
    assert "it is remote storage; remote=true reads it" in run.report.read_text()
    assert files_with(run.path, "swordfish") == ["config.yaml"]
    assert main(["report", str(run.path), "remote=true"]) == 0 and opened
    assert files_with(run.path, "swordfish") == ["config.yaml"]
    printed = capsys.readouterr()
    assert "swordfish" not in printed.out + printed.err + "".join(caplog.messages)


def test_credentials_are_masked_in_messages(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["train", f"data.path={ADDRESS}", "run.dir=run"],
        ["eval", "knn", "pixels", f"train={ADDRESS}"],
        ["data", "pack", ADDRESS, "packed"],
        ["embed", "pixels", f"data={ADDRESS}", "out=embedded.npz"],
    ):
        assert main(words) == 2
        message = capsys.readouterr().err
        assert "***@127.0.0.1" in message and "access_token=***" in message and "swordfish" not in message


def test_mask() -> None:
    assert mask(ADDRESS) == "ftp://***@127.0.0.1:1/shards-000.tar?access_token=***&part=1"
    assert (
        mask("simplecache::https://a:p@b@host/x?X-Amz-Signature=1")
        == "simplecache::https://***@host/x?X-Amz-Signature=***"
    )
    for plain in ("s3://bucket/a@b.tar", "/data/a@b?token=1", "mail@host", "https://host/x?part=1"):
        assert mask(plain) == plain
    assert masked({"a": [{"b": ADDRESS}], "n": 1}) == {"a": [{"b": mask(ADDRESS)}], "n": 1}


@pytest.mark.parametrize(
    "name", ["[/b]", "$\\frac{$", "a\x1b[2J", "a\nALARM at step 1: b", "a\udce9", "\u202ecod.exe", "b\\"]
)
def test_names_are_no_markup(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes, files and folders with these names are evaluated, drawn and listed, and the terminal gets none of their signs."""
    log = logging.getLogger("dinolab")  # with the command line's handler, in place of pytest's
    monkeypatch.setattr(log, "handlers", [log_handler()])
    monkeypatch.setattr(log, "propagate", False)
    (tmp_path / name).mkdir(parents=True)
    data, inner = tmp_path / name / "images", name.replace("/", "")
    make_folder(tmp_path / "images", per_class=8, side=16).rename(data)
    (data / "class0").rename(data / inner)
    (data / "class1" / f"{inner}.jpg").write_bytes(b"no image")
    out = tmp_path / name / "out"
    words = ["eval", "knn", "pixels", f"train={data}", f"out={out}", "size=16", "k=3"]
    assert main(words) == 0
    assert {"result.json", "predictions.csv", "confusion.png"} <= {file.name for file in out.iterdir()}
    run = RunFolder(tmp_path / name / "run")
    assert (
        main(
            [
                "train",
                *fit_words(
                    [*TINY, f"data.path={data}", f"run.dir={run.path}", "data.max_broken=1", "optim.length=2 steps"]
                ),
            ]
        )
        == 0
    )
    assert main(["report", str(run.path)]) == 0
    lines = run.log.read_text().splitlines()
    assert any("broken image" in line for line in lines) and not any(
        line[20:].startswith("ALARM at step 1: b") for line in lines
    )
    assert all(line[:2] == "20" for line in lines)
    printed = capsys.readouterr()
    assert "\x1b[2J" not in printed.out + printed.err and "\nALARM" not in printed.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: a number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: a number from 1"),
        ({"RANK": "x"}, "RANK=x: a number from 0 to 1"),
        ({"RANK": "2"}, "RANK=2: a number from 0 to 1"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999: a number from 1 to 65535"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is missing: torchrun sets it"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE=2 without MASTER_ADDR: start the processes with torchrun"),
        ({"LOCAL_WORLD_SIZE": "-1"}, "LOCAL_WORLD_SIZE=-1: a number from 1"),
        ({"MASTER_ADDR": "no.such.host.invalid", "RANK": "1"}, "cannot meet at MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_wrong_variables_of_torchrun_are_named(
    changes: dict[str, str | None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29417",
        "LOCAL_WORLD_SIZE": "2",
    }
    for name, value in (usual | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "PATIENCE", timedelta(seconds=3))
    if "LOCAL_WORLD_SIZE" in changes:
        with pytest.raises(UserError, match=message):
            parallel.local_world()
        return
    data = make_folder(tmp_path / "images")
    assert main(["train", *fit_words([*TINY, f"data.path={data}", f"run.dir={tmp_path / 'run'}"])]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_trains_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.alone() == ""
    for name in ("SLURM_STEP_NUM_TASKS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
        assert parallel.launched() == 1
        assert parallel.alone().startswith(f"{name}=2, but this process trains alone")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert parallel.launched() == 2 and parallel.alone() == ""
    with pytest.raises(UserError, match="LOCAL_RANK is missing"):
        parallel.local_rank()


def test_a_process_that_waits_for_others_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29418"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(parallel, "PATIENCE", timedelta(seconds=3))
    monkeypatch.setattr(parallel, "PATIENT", 0.5)
    with pytest.raises(UserError, match="the 2 processes cannot meet"), parallel.processes(torch.device("cpu")):
        pass
    assert "waiting at 127.0.0.1:29418 for 2 processes" in capfd.readouterr().err


def test_weights_that_are_not_finite_are_an_error(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(run.weights)
    tensors["norm.weight"][3] = float("nan")
    save_file(tensors, run.weights)
    for words in (
        ["eval", "knn", "dino", "train=images", "size=16"],
        ["embed", "dino", "data=images", "out=embedded.npz"],
        ["show", "pca", "dino", "images/class0/000.png"],
    ):
        assert main(words) == 2
        assert "norm.weight holds values that are not finite" in capsys.readouterr().err


def test_a_terminal_that_lacks_the_signs_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = TextIOWrapper(BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stderr", stream)
    assert main(["train", "\u732b.yaml"]) == 2
    stream.flush()
    assert rb"\u732b.yaml" in stream.buffer.getvalue()
