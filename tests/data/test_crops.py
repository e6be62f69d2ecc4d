"""The draws against torchvision's transforms, which the published recipes use, and against their own probabilities."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import ColorJitter, GaussianBlur, RandomResizedCrop

from dinolab import options
from dinolab.data.crops import Crops, draw_boxes, draw_crops, reduction, shrunk

ASPECT = [0.75, 4 / 3]


def draw(number: int, **changes) -> Crops:
    """The draws for `number` images of 120 x 160, stacked: each field (number, V, ...)."""
    cfg, rng = options.Views(**changes), np.random.default_rng(0)
    return Crops(*map(np.stack, zip(*(draw_crops(120, 160, cfg, rng) for _ in range(number)))))


def near(share: np.ndarray, p: float, draws: int) -> bool:
    """Whether shares of so many draws are within four standard deviations of p."""
    return bool((np.abs(share - p) <= 4 * math.sqrt(p * (1 - p) / draws)).all())


def inside(boxes: np.ndarray, height: int, width: int) -> bool:
    top, left, h, w = np.moveaxis(boxes, -1, 0)
    fits = (top >= 0) & (left >= 0) & (h > 0) & (w > 0) & (top + h <= height) & (left + w <= width)
    return bool(fits.all())


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(120, 160, [0.05, 0.4]), (120, 160, [0.32, 1.0]), (100, 300, [0.4, 1.0]), (37, 33, [0.05, 0.32])],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    ours = draw_boxes(height, width, np.tile(scale, (3000, 1)), ASPECT, np.random.default_rng(0))
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ASPECT) for _ in range(3000)])
    assert inside(ours, height, width)
    assert inside(theirs, height, width)

    def statistics(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, h, w = boxes.T
        return [h * w, w / h, h, w, top, left, top + h / 2, left + w / 2]

    # 8 statistics x 4 cases, all seeded: at p > 1e-3 chance would fail 3 % of seeds, a wrong formula nearly all
    for a, b in zip(statistics(ours), statistics(theirs)):
        assert ks_2samp(a, b, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width"), [(10, 400), (400, 10), (11, 400), (400, 11), (30, 31), (1, 1), (1, 9), (9, 1)]
)
def test_a_box_that_never_fits(height, width):
    """No box of twice the area fits: the largest centred one with an admitted aspect, exactly torchvision's."""
    boxes = draw_boxes(height, width, np.full((3, 2), 2.0), ASPECT, np.random.default_rng(0))
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], ASPECT)
    assert [tuple(box) for box in boxes.tolist()] == [expected] * 3
    assert boxes.dtype == np.int64


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("aspect", [ASPECT, [0.1, 0.2], [5.0, 10.0]])
def test_boxes_of_tiny_images_lie_inside(height, width, aspect):
    boxes = draw_boxes(height, width, np.tile([0.01, 1.0], (200, 1)), aspect, np.random.default_rng(0))
    assert inside(boxes, height, width)


def test_shapes_and_determinism():
    cfg = options.Views(locals=3)
    crops = draw_crops(30, 40, cfg, np.random.default_rng(1))
    again, other = (draw_crops(30, 40, cfg, np.random.default_rng(seed)) for seed in (1, 2))
    shapes = [field.shape for field in crops]
    assert shapes == [(2,), (5, 4), (5,), (5,), (5, 4), (5, 4), (5,), (5,), (5,), (5, 2, 2), (5, 5)]
    assert crops.size.tolist() == [30, 40]
    assert all(np.array_equal(a, b) for a, b in zip(crops, again))
    assert not np.array_equal(crops.boxes, other.boxes)
    assert not np.array_equal(crops.factors, other.factors)
    alone = draw_crops(30, 40, options.Views(locals=0), np.random.default_rng(1))
    assert alone.boxes.shape == (2, 4)


def test_the_scale_of_a_crop_is_that_of_its_kind():
    area = draw(300, global_scale=[0.5, 0.6], local_scale=[0.1, 0.2]).boxes[..., 2:].prod(axis=2) / (120 * 160)
    for share, (low, high) in ((area[:, :2], (0.5, 0.6)), (area[:, 2:], (0.1, 0.2))):
        assert low - 0.01 < share.min() < low + 0.01  # sides are rounded to pixels
        assert high - 0.01 < share.max() < high + 0.01


def test_probabilities():
    crops = draw(1500, flip=0.5, jitter=0.8, grey=0.2, blur=[1.0, 0.1, 0.5], solarize=0.3)
    for field, p in ((crops.flip, 0.5), (crops.jitter, 0.8), (crops.grey, 0.2)):
        assert near(field.mean(axis=0), p, 1500)
    for view in range(10):
        assert near((crops.sigma[:, view] > 0).mean(), (1.0, 0.1, 0.5)[min(view, 2)], 1500)
        assert near(crops.solarize[:, view].mean(), 0.3 if view == 1 else 0.0, 1500)
    both = (crops.jitter & crops.grey).mean()  # drawn apart from each other, and for each view
    assert near(both, 0.16, crops.jitter.size)
    assert near((crops.flip[:, 0] & crops.flip[:, 1]).mean(), 0.25, 1500)


@pytest.mark.parametrize("name", ["flip", "jitter", "grey", "solarize"])
def test_never_and_always(name):
    assert not getattr(draw(50, **{name: 0.0}), name).any()
    always = getattr(draw(50, **{name: 1.0}), name)
    assert always[:, 1].all()
    others = np.delete(always, 1, axis=1)
    assert not others.any() if name == "solarize" else others.all()


def test_amounts_are_distributed_as_torchvisions():
    strength = [0.4, 0.3, 0.2, 0.1]
    crops = draw(300, jitter_strength=strength, blur=[1.0, 1.0, 1.0])
    jitter = ColorJitter(*strength)
    torch.manual_seed(0)
    ranges = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    theirs = np.array([ColorJitter.get_params(*ranges)[1:] for _ in range(3000)])
    for kind in range(4):
        assert ks_2samp(crops.factors[..., kind].ravel(), theirs[:, kind], method="asymp").pvalue > 1e-3
    sigma = np.array([GaussianBlur.get_params(0.1, 2.0) for _ in range(3000)])
    assert ks_2samp(crops.sigma.ravel(), sigma, method="asymp").pvalue > 1e-3


def test_a_strength_above_one_never_makes_a_factor_negative():
    factors = draw(100, jitter_strength=[1.0, 0.0, 1.0, 0.0]).factors
    assert 0 <= factors[..., [0, 2]].min() < 0.05
    assert 1.95 < factors[..., [0, 2]].max() <= 2
    assert (factors[..., 1] == 1).all()
    assert (factors[..., 3] == 0).all()


def test_all_orders_of_jitter_are_equally_likely():
    orders = Counter(map(tuple, draw(300).order.reshape(-1, 4).tolist()))
    assert len(orders) == 24
    assert chisquare(list(orders.values())).pvalue > 1e-3


def crops_of(*sides: tuple[int, int]) -> Crops:
    """Draws that consist of boxes with these sides, in an image of 4000 x 4000."""
    boxes = np.array([(0, 0, height, width) for height, width in sides])
    blank = np.zeros(len(sides))
    return Crops(np.array([4000, 4000]), boxes, *[blank] * 9)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(223, 500), (500, 500), (4000, 4000)], 1),  # enlarged as it is
        ([(447, 500), (500, 500), (4000, 4000)], 1),
        ([(448, 500), (500, 500), (4000, 4000)], 2),
        ([(500, 448), (500, 500), (4000, 4000)], 2),
        ([(4000, 4000), (4000, 895), (4000, 4000)], 2),
        ([(4000, 4000), (896, 896), (4000, 4000)], 4),
        ([(4000, 4000), (1792, 1792), (768, 768)], 8),
        ([(4000, 4000), (1792, 1792), (767, 768)], 4),  # a local crop is what limits it
        ([(4000, 4000), (4000, 4000), (4000, 100)], 1),
        ([(4000, 4000), (4000, 4000), (4000, 4000)], 8),
        ([(4000, 4000), (1792, 4000)], 8),  # no local crops
    ],
)
def test_reduction_is_the_largest_that_enlarges_no_crop(sides, expected):
    assert reduction(crops_of(*sides), options.Views(locals=len(sides) - 2)) == expected


@pytest.mark.parametrize(("height", "width"), [(375, 500), (1080, 1919), (3001, 4003), (64, 5000)])
def test_reduction_of_drawn_crops(height, width):
    cfg, rng = options.Views(), np.random.default_rng(0)
    size = np.array([224] * 2 + [96] * 8)[:, None]
    for _ in range(100):
        crops = draw_crops(height, width, cfg, rng)
        factor = reduction(crops, cfg)
        assert factor == 1 or (crops.boxes[:, 2:] // factor >= size).all()
        assert factor == 8 or (crops.boxes[:, 2:] < 2 * factor * size).any()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (1081, 1919), (3001, 4003), (17, 1000)])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_how_much_an_image_was_shrunk(height, width, factor):
    crops = draw_crops(height, width, options.Views(), np.random.default_rng(0))
    assert shrunk(crops, math.ceil(height / factor), math.ceil(width / factor)) == factor
