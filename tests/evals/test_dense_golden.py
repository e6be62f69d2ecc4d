"""Figures, losses and heads of segmentation and depth against the numbers of published code, on the same inputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinolab.evals.dense import Tokens, View, centre_padding, to_pixels
from dinolab.evals.dense_metrics import areas, constant_iou, depth_errors, iou_figures, iou_intervals, mean_errors
from dinolab.evals.depth_losses import BinHead, gradient_loss, sig_loss

FAR = 10.0


@pytest.fixture
def dense(golden: Path) -> Path:
    return golden / "dense"


def arrays(file: Path) -> dict[str, Tensor]:
    with np.load(file) as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def numbers(file: Path) -> Any:
    return json.loads(file.read_text())


def test_intersection_over_union(dense: Path) -> None:
    z, known = arrays(dense / "segmentation.npz"), numbers(dense / "segmentation_results.json")
    by_image = np.stack(
        [areas(p, t.long().where(t != 255, -1), 12) for p, t in zip(z["prediction"], z["truth"], strict=True)]
    )
    total = by_image.sum(0)
    for row, name in enumerate(("intersect", "predicted", "truth")):
        assert total[row].tolist() == known["areas"][name]
    found, theirs = iou_figures(total), known["mmseg"]
    for key, name in (("miou", "mIoU"), ("mean_accuracy", "mAcc"), ("pixel_accuracy", "aAcc")):
        assert found[key] == pytest.approx(theirs[name], abs=1e-6)
    for key, name in (("iou", "IoU"), ("accuracy", "Acc")):
        expected = [np.nan if value is None else value for value in theirs[name]]
        np.testing.assert_allclose(found[key], expected, atol=1e-6)
    low, high = iou_intervals(by_image, seed=0)["miou"]
    assert low < found["miou"] < high


def test_a_constant_class() -> None:
    truth = np.array([30, 10, 0])
    assert constant_iou(truth, 0) == pytest.approx((30 / 40 + 0) / 2)  # the third class is in neither map


def test_depth_errors(dense: Path) -> None:
    z, known = arrays(dense / "depth_maps.npz"), numbers(dense / "depth_metrics.json")
    found = [depth_errors(p, t, *known["range"]) for p, t in zip(z["prediction"], z["truth"], strict=True)]
    names = {"rmse": "rmse", "abs_rel": "abs_rel", "delta1": "a1", "delta2": "a2", "delta3": "a3"}
    for ours, theirs in zip(found, known["toolbox_per_image"], strict=True):
        assert ours == pytest.approx({key: theirs[name] for key, name in names.items()}, abs=1e-6)
    nothing = depth_errors(torch.ones(2, 2), torch.zeros(2, 2), 1e-3, FAR)
    assert all(np.isnan(value) for value in nothing.values())
    for key, (value, (low, high)) in mean_errors(
        [*found, nothing], seed=0
    ).items():  # an image without readings is left out
        assert value == pytest.approx(known["toolbox_mean_over_images"][names[key]], abs=1e-6)
        assert low <= value <= high


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("sigloss_2d", lambda p, t: sig_loss(p, t, FAR)),
        ("sigloss_2d_warm_up_first", lambda p, t: sig_loss(p, t, FAR, warm=True)),
        ("gradloss_2d", lambda p, t: gradient_loss(p, t, FAR)),
        ("sigloss_4d", lambda p, t: sig_loss(p, t, FAR)),
        ("dinov3_gradient_log_loss_4d", lambda p, t: gradient_loss(p, t, FAR)),
    ],
)
def test_depth_losses(dense: Path, name: str, loss: Any) -> None:
    z, known = arrays(dense / "depth_losses.npz"), numbers(dense / "depth_losses.json")
    shape = "4d" if "4d" in name else "2d"
    predicted, truth = z[f"pred_{shape}"].requires_grad_(), z[f"truth_{shape}"]
    maps = ([predicted], [truth]) if shape == "2d" else (list(predicted[:, 0]), list(truth[:, 0]))
    value = loss(*maps)
    (grad,) = torch.autograd.grad(value, predicted)
    assert value.item() == pytest.approx(known[name], abs=1e-9)
    torch.testing.assert_close(grad, z[f"{name}_grad"], rtol=0, atol=1e-9)


def test_depth_head(dense: Path) -> None:
    z = arrays(dense / "depth_head.npz")
    depths = BinHead(48, 0.001, FAR).depths(z["logits"][0])
    torch.testing.assert_close(depths, z["depth_UD_linear"][0, 0], rtol=1e-6, atol=0)
    head = BinHead(48, 0.001, FAR)
    head.linear.weight.data, head.linear.bias.data = z["conv_weight"][:, :, 0, 0], z["conv_bias"]
    for image in range(2):
        patches = torch.cat([z[f"patches_{n}"][image].permute(1, 2, 0) for n in range(4)], 2)
        found = head(Tokens(patches, torch.stack([z[f"cls_{n}"][image] for n in range(4)])).joined())
        torch.testing.assert_close(found, z["head_output"][image, 0], rtol=1e-6, atol=0)
        larger = to_pixels(found.clamp(0.001, FAR)[None], View((42, 56), (42, 56), (42, 56)))[0]
        torch.testing.assert_close(larger, z["head_output_resized"][image, 0], rtol=1e-6, atol=0)


def test_centre_padding(dense: Path) -> None:
    known = numbers(dense / "centre_padding.json")
    for name, theirs in known["sizes"].items():
        height, width = map(int, name.split("x"))
        assert centre_padding(height, 14) == (theirs["top"], theirs["bottom"]), name
        assert centre_padding(width, 14) == (theirs["left"], theirs["right"]), name


@pytest.mark.parametrize(("grid", "size"), [((3, 4), (33, 50)), ((1, 5), (7, 3)), ((6, 6), (6, 6))])
def test_to_pixels_is_bilinear_interpolation(grid: tuple[int, int], size: tuple[int, int]) -> None:
    values = torch.randn(2, *grid)
    plain = to_pixels(values, View(size, size, size))
    torch.testing.assert_close(plain, F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0])


def test_padding_is_cut_off_again() -> None:
    values = torch.randn(2, 3, 4)
    view = View(image=(37, 50), resized=(37, 50), padded=(42, 56))
    whole = F.interpolate(values[None], (42, 56), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(to_pixels(values, view), whole[:, 2:39, 3:53])
    cells = torch.arange(12).view(3, 4).repeat_interleave(14, 0).repeat_interleave(14, 1)
    assert torch.equal(view.cells((3, 4)), cells[2:39, 3:53])
