"""Our weights into other libraries and back; each target is written, reloaded and compared by `export` itself."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from transformers import AutoImageProcessor, AutoModel

import dinolab
from dinolab.cli import main
from dinolab.data.views import eval_view
from dinolab.errors import UserError
from dinolab.evals.heads import Input, Trained
from dinolab.evals.layer import LinearLayer
from dinolab.export import TARGETS, export, write
from dinolab.export.classifier import CLASSIFIERS
from dinolab.export.onnx import bicubic
from dinolab.features.cache import checksum
from dinolab.models.backbone import make_backbone
from dinolab.models.encoder import _constants, normalise
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.pixels import RGB, Pixels
from dinolab.weights.load import save_encoder

SIZE = 40
CONFIG = {
    "method": "dinov2",
    "data": {"path": "/home/me/photos"},
    "model": {"dim": 48},
    "optim": {"lr": 0.001},
    "run": {"dir": "/x"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "mine")


def make_run(folder: Path, size: int = SIZE, pixels: Pixels = RGB, **changes) -> Path:
    vit = ViT(Model(**({"dim": 48, "depth": 2, "heads": 4, "patch_size": 8} | changes)), size, pixels=pixels)
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    folder.mkdir()
    save_encoder(vit, folder, {"method": "dinov2", "step": 1200, "images": 5700, "config": CONFIG})
    lines = [{"step": 600, "knn": 0.25, "knn_test_images": 1500}, {"step": 1200, "knn": 0.312, "knn_test_images": 1500}]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1300, "knn": 0.'
    )
    return folder


@pytest.mark.parametrize("changes", [{}, {"registers": 2, "ffn": "swiglu", "layerscale": 0.1}])
@pytest.mark.parametrize("to", [pytest.param(to, marks=[pytest.mark.slow] if to == "onnx" else []) for to in TARGETS])
def test_every_target_gives_our_features(
    to: str, changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _constants.cache_clear()  # where an exporter's stand-ins for tensors must not stay
    assert main(["export", str(make_run(tmp_path / "mine", **changes)), f"to={to}"]) == 0
    assert f"mine-{to}: largest difference" in capsys.readouterr().out
    images = torch.rand(1, 3, 35, 51)  # with remainders at both borders
    ours = dinolab.load("mine")(images)
    with torch.inference_mode():
        theirs = TARGETS[to].open(Path(f"mine-{to}"), RGB)(images)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    code = Path(f"mine-{to}", "README.md").read_text().split("```python\n")[1].split("```")[0]
    batch = torch.rand(2, 3, 40, 40)
    forms = {"onnx": batch.numpy(), "huggingface": [Image.new("RGB", (50, 40)), np.zeros((40, 70, 3), np.uint8)]}
    exec(code, {"images": forms.get(to, batch)})


def test_the_card_says_what_it_is(run: Path, tmp_path: Path) -> None:
    out, check = export(run, "huggingface", tmp_path / "deep" / "out")
    assert list(check.differences) == [(40, 40), (56, 32)] and not check.remark
    card = (out / "README.md").read_text()
    for words in (
        "# out",
        "5,700",
        "1,200",
        "31.2%",
        "1,500",
        "lr: 0.001",
        "AutoModel.from_pretrained",
        "largest difference",
    ):
        assert words in card
    assert "/home/me" not in card and str(tmp_path) not in card


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("size", [40, 112])  # without a margin round the centre, and with one
def test_hugging_faces_processor_makes_our_input(size: int, registers: int, tmp_path: Path) -> None:
    pixels = Pixels(mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.25))
    out, _ = export(make_run(tmp_path / "mine", size, pixels, registers=registers), "huggingface", tmp_path / "out")
    encoder, model = dinolab.load(tmp_path / "mine"), AutoModel.from_pretrained(out).eval()
    # (426, 640, 3): where an odd number of pixels is cut off, their centre lies one to the left of torchvision's and ours
    photo = load_sample_image("china.jpg")[1:].copy()
    inputs = AutoImageProcessor.from_pretrained(out)(photo, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**inputs).last_hidden_state[0, 0]
    ours = encoder(eval_view(photo, size)).cls[0]
    assert inputs["pixel_values"].shape == (1, 3, size, size)
    assert (theirs - ours).norm() < 1e-4 * ours.norm()


def test_other_pixels_go_out_and_come_back(tmp_path: Path) -> None:
    pixels = Pixels(5, 65535, (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1))
    out, _ = export(make_run(tmp_path / "mine", pixels=pixels), "huggingface", tmp_path / "out")
    assert dinolab.load(f"hf:{out}").pixels == pixels
    image = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE, 5)).astype(np.uint16)
    inputs = AutoImageProcessor.from_pretrained(out)(image, input_data_format="channels_last", return_tensors="pt")
    ours = normalise(torch.from_numpy(image).permute(2, 0, 1)[None], pixels)
    torch.testing.assert_close(inputs["pixel_values"], ours, atol=1e-5, rtol=0)


def test_an_official_file_goes_out_too(tmp_path: Path) -> None:
    from tests.weights.foreign import official_layout, random_model

    torch.save(official_layout(random_model("dinov2")), tmp_path / "dinov2_tiny.pth")
    out, check = export(f"{tmp_path / 'dinov2_tiny.pth'}:heads=2", "timm", tmp_path / "out")
    assert list(check.differences) == [(40, 40)]
    card = (out / "README.md").read_text()
    assert "dinov2_tiny.pth" in card
    assert "| positions at other image sizes | not filtered, offset 0.1 |" in card


@pytest.mark.parametrize(
    ("to", "changes", "alike"),
    [
        ("safetensors", {"antialias": False, "interpolate_offset": 0.1}, True),
        ("huggingface", {"antialias": False}, True),
        ("huggingface", {"antialias": True, "registers": 2}, True),
        ("huggingface", {"antialias": False, "registers": 2}, False),
        ("huggingface", {"antialias": False, "interpolate_offset": 0.1}, False),
        ("timm", {"antialias": True}, True),
        ("timm", {"antialias": False}, False),
        ("timm", {"antialias": False, "interpolate_offset": 0.1}, False),
        pytest.param("onnx", {"antialias": False, "interpolate_offset": 0.1}, True, marks=pytest.mark.slow),
    ],
)
def test_where_positions_are_resampled_otherwise_the_difference_is_told(
    to: str, changes: dict, alike: bool, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "mine", **changes)
    out, check = export(run, to, tmp_path / "out")
    assert check.differences[SIZE, SIZE] < 1e-5
    if alike:
        assert check.differences[56, 32] < 1e-5 and not check.remark
    images = torch.rand(3, 3, 56, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = zip(dinolab.load(run)(images), TARGETS[to].open(out, RGB)(images))
        difference = max((a - b).abs().max() for a, b in pairs if a.numel())
    if not alike:
        assert difference > 1e-3 and list(check.differences) == [(SIZE, SIZE)]
        said = f"model.interpolate_offset={changes.get('interpolate_offset', 0.0)} do: the difference is {difference:.1e} at 56 x 32 pixels"
        assert said in str(check) and said in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("to", "changes", "tokens", "blocks"),
    [
        ("huggingface", {}, "both", 1),
        ("huggingface", {"registers": 2}, "cls", 1),
        ("huggingface", {}, "patches", 1),
        pytest.param("onnx", {"registers": 2}, "both", 2, marks=pytest.mark.slow),
    ],
)
def test_a_layer_goes_out_with_its_model(
    to: str, changes: dict, tokens: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("mine"), **changes)
    trained = Trained(nn.Linear(48 * (blocks + (tokens == "both")), 3), Input(blocks, tokens))
    trained.linear.requires_grad_(False).bias[1] = -torch.inf  # of a class without training images
    encoder = dinolab.load(run)
    facts = {"name": "mine", "weights_crc32": checksum(encoder.state_dict(), {})}
    layer = LinearLayer(trained, ["a", "b", "c"], (SIZE, SIZE), "fp32", facts)
    layer.save(run)
    assert main(["export", "mine", f"to={to}", "out=out", "layer=mine"]) == 0
    images = torch.rand(2, 3, 56, 32)
    with torch.inference_mode():
        ours, theirs = layer.predict(encoder, images), CLASSIFIERS[to].open(Path("out"), RGB)(images).softmax(1)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            TARGETS[to].open(Path("out"), RGB)(images).cls, encoder(images).cls, atol=1e-5, rtol=0
        )
    card = Path("out", "README.md").read_text()
    names = {"images": images.numpy() if to == "onnx" else [Image.new("RGB", (50, 40))]}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert set(names["labels"]) <= {"a", "c"} and "of probabilities" in card and "40 x 40 pixels" in card


def test_a_layer_that_does_not_fit_is_refused(run: Path, tmp_path: Path) -> None:
    encoder = {"weights_crc32": checksum(dinolab.load(run).state_dict(), {})}
    layer = LinearLayer(Trained(nn.Linear(96, 3), Input(2, "cls")), ["a", "b", "c"], (SIZE, SIZE), "fp32", encoder)
    layer.save(tmp_path)
    for to, message in (("timm", "to=timm holds no layer"), ("huggingface", "this layer takes 2 blocks of 40 x 40")):
        with pytest.raises(UserError, match=message):
            export(run, to, tmp_path / "out", layer=tmp_path)
    layer.encoder = {"weights_crc32": "1"}
    layer.save(tmp_path)
    with pytest.raises(UserError, match="was trained on other weights"):
        export(run, "onnx", tmp_path / "out", layer=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_compares_unequal_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(encoder, folder):
        with torch.no_grad():
            encoder.vit.norm.bias[3] += 0.01
        TARGETS["safetensors"].write(encoder, folder)
        with torch.no_grad():
            encoder.vit.norm.bias[3] -= 0.01

    monkeypatch.setattr(write, "TARGETS", {"safetensors": dataclasses.replace(TARGETS["safetensors"], write=spoiled)})
    with pytest.raises(UserError, match=r"failed, nothing is written: .* 1\.0e-02 at 40 x 40"):
        export(run, "safetensors", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_overwritten(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    export(run, "safetensors", tmp_path / "out")  # an empty folder is taken
    before = (tmp_path / "out" / "model.json").stat().st_mtime_ns
    assert main(["export", str(run), "to=safetensors", f"out={tmp_path / 'out'}"]) == 2
    assert "out exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.json").stat().st_mtime_ns == before


def test_timm_models_and_resnets_are_not_exported(tmp_path: Path) -> None:
    import timm

    save_encoder(make_backbone(Model(size="resnet50"), 64), tmp_path, {})
    with pytest.raises(UserError, match=r"only dinolab's own ViT .* timm:resnet50=FILE"):
        export(tmp_path, "timm", tmp_path / "out")
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "r.pth")
    with pytest.raises(UserError, match="only dinolab's own ViT"):
        export(f"timm:resnet10t={tmp_path / 'r.pth'}", "onnx", tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("runs/mine", "mine"),
        ("runs/v1.2/", "v1.2"),
        ("runs/mine/model.safetensors", "mine"),
        ("x/dino_vits16.pth", "dino_vits16"),
        ("hf:facebook/dinov2-small", "dinov2-small"),
    ],
)
def test_default_names(source: str, name: str) -> None:
    assert write.default_name(source) == name


@pytest.mark.parametrize(("antialias", "offset"), [(True, 0.0), (False, 0.0), (False, 0.1), (False, 0.7)])
@pytest.mark.parametrize("new", [3, 5, 7, 13, 1])
def test_bicubic_equals_interpolate(new: int, antialias: bool, offset: float) -> None:
    grid = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    expected = F.interpolate(grid, scale_factor=((new + offset) / 5, 1), mode="bicubic", antialias=antialias)
    found = torch.einsum("ny,bcyx->bcnx", bicubic(new, 5, antialias, offset).double(), grid)
    np.testing.assert_allclose(found, expected, atol=5e-6)
