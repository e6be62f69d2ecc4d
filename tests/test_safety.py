"""Files from strangers: whatever is opened to look at, evaluate, export or resume runs no code, and a damaged file is named."""

import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

import dinolab
from dinolab.cli import main
from dinolab.errors import UserError
from dinolab.rundir import RunFolder
from dinolab.training import checkpoint


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
    with pytest.raises(UserError, match="this checkpoint cannot be read|does not fit its model.json"):
        dinolab.load(place)
    words = [
        ["report", str(run.path), "photos=true"],
        ["export", str(place), "to=safetensors"],
        ["embed", str(place), "images=images", "out=embedded"],
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
