"""The views against torchvision's transforms, which the published recipes use, and against their own probabilities."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from dinolab import config
from dinolab.data.views import colour_jitter, crop_box, distort, eval_view, multi_crop, resize


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photo, uint8 (427, 640, 3)."""
    return load_sample_image("china.jpg").copy()


def views(**changes) -> config.Views:
    """Views with every distortion off but those named."""
    off = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": [0.0, 0.0, 0.0], "solarize": 0.0}
    return config.Views(**{"global_size": 24, "local_size": 12, "locals": 2, **off, **changes})


def test_shapes_and_determinism(photo):
    cfg = config.Views(global_size=32, local_size=16, locals=3)
    globals_, locals_ = multi_crop(photo, cfg, np.random.default_rng(1))
    assert (globals_.shape, locals_.shape) == ((2, 3, 32, 32), (3, 3, 16, 16))
    assert (globals_.dtype, locals_.dtype) == (np.uint8, np.uint8)
    again = multi_crop(photo, cfg, np.random.default_rng(1))
    assert np.array_equal(again[0], globals_)
    assert np.array_equal(again[1], locals_)
    assert not np.array_equal(multi_crop(photo, cfg, np.random.default_rng(2))[0], globals_)
    assert not np.array_equal(globals_[0], globals_[1])
    assert multi_crop(photo, config.Views(locals=0), np.random.default_rng(1))[1].shape == (0, 3, 96, 96)


def test_a_view_is_a_copy_of_the_image_and_the_image_is_left_alone(photo):
    before = photo.copy()
    multi_crop(photo, config.Views(global_size=32, local_size=16), np.random.default_rng(0))
    assert np.array_equal(photo, before)
    colours = np.broadcast_to(np.array([200, 40, 10], np.uint8), (50, 60, 3)).copy()
    for crop in multi_crop(colours, views(), np.random.default_rng(0)):  # channels in place
        assert (crop == np.array([200, 40, 10], np.uint8)[:, None, None]).all()


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(120, 160, [0.05, 0.4]), (120, 160, [0.32, 1.0]), (100, 300, [0.4, 1.0]), (37, 33, [0.05, 0.32])],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    aspect = [0.75, 4 / 3]
    rng = np.random.default_rng(0)
    ours = np.array([crop_box(height, width, scale, aspect, rng) for _ in range(3000)])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, aspect) for _ in range(3000)])
    for boxes in (ours, theirs):
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 0] + boxes[:, 2] <= height).all()
        assert (boxes[:, 1] + boxes[:, 3] <= width).all()

    def statistics(boxes: np.ndarray) -> list[np.ndarray]:
        top, left, h, w = boxes.T
        return [h * w, w / h, h, w, top, left, top + h / 2, left + w / 2]

    # 8 statistics x 4 cases, all seeded: at p > 1e-3 chance would fail 3 % of seeds, a wrong formula nearly all
    for a, b in zip(statistics(ours), statistics(theirs)):
        assert ks_2samp(a, b, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (30, 31)])
def test_a_box_that_never_fits(height, width):
    """No box of twice the area fits: the largest centred one with an admitted aspect, exactly torchvision's."""
    ours = crop_box(height, width, [2.0, 2.0], [0.75, 4 / 3], np.random.default_rng(0))
    assert ours == RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], [0.75, 4 / 3])


def differs(photo: np.ndarray, cfg: config.Views, draws: int) -> np.ndarray:
    """Share of draws in which a view differs from the plain resized image: of the two globals, and of the locals.

    Crops of the whole image, so that nothing but the distortion changes.
    """
    small = resize(photo[:400, :400], 48, 48)
    cfg.global_scale = cfg.local_scale = [1.0, 1.0]
    cfg.aspect = [1.0, 1.0]
    plain = [resize(small, size, size).transpose(2, 0, 1) for size in (cfg.global_size, cfg.local_size)]
    rng = np.random.default_rng(0)
    found = np.zeros(3)
    for _ in range(draws):
        globals_, locals_ = multi_crop(small, cfg, rng)
        found[:2] += [(view != plain[0]).any() for view in globals_]
        found[2] += np.mean([(view != plain[1]).any() for view in locals_])
    return found / draws


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0, 0, 0)),
        ({"flip": 0.5}, (0.5, 0.5, 0.5)),
        ({"jitter": 0.8}, (0.8, 0.8, 0.8)),
        ({"grey": 0.2}, (0.2, 0.2, 0.2)),
        ({"blur": [1.0, 0.1, 0.5]}, (1, 0.1, 0.5)),
        ({"solarize": 0.2}, (0, 0.2, 0)),
    ],
)
def test_probabilities(photo, changes, expected):
    found = differs(photo, views(**changes), 400)
    # four deviations of 400 draws; sigmas below 0.3, a tenth of all, move no 8-bit level by a half, so blur hides
    slack = 0.15 if "blur" in changes else 0.0
    for share, p in zip(found, expected):
        deviation = math.sqrt(p * (1 - p) / 400)
        assert p - 4 * deviation - slack * p <= share <= p + 4 * deviation


class Script:
    """Hands out given numbers in place of random ones, and keeps the given order of the four colour operations."""

    def __init__(self, values: list[float], order: list[int]) -> None:
        self.values, self.order = iter(values), order

    def uniform(self, low: float, high: float) -> float:
        return next(self.values)

    def permutation(self, n: int) -> list[int]:
        return self.order


def jitter(image: np.ndarray, operation: int, amount: float) -> np.ndarray:
    """Only one of brightness, contrast, saturation and hue."""
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[operation] = amount
    order = [operation, *(n for n in range(4) if n != operation)]
    return colour_jitter(image, [0.4, 0.4, 0.2, 0.1], Script(factors, order))  # type: ignore[arg-type]


def torchvisions(image: np.ndarray, operation: int, amount: float) -> np.ndarray:
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)[operation]
    return adjust(torch.from_numpy(image).permute(2, 0, 1), amount).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("operation", "amounts", "largest", "mean"),
    [
        (0, [0.6, 0.9, 1.4], 1, 0.6),  # torchvision cuts fractions off, we round
        (1, [0.6, 0.9, 1.4], 2, 1.0),  # and its grey, from which the mean comes, is cut as well
        (2, [0.8, 1.2, 0.0, 2.0], 2, 1.0),
        (3, [-0.1, -0.03, 0.05, 0.1], 8, 1.6),  # hue in 256 levels: half of one is 3 of 255 in a saturated pixel
    ],
)
def test_colours_are_torchvisions(photo, operation, amounts, largest, mean):
    for amount in amounts:
        difference = np.abs(jitter(photo, operation, amount).astype(int) - torchvisions(photo, operation, amount))
        assert difference.max() <= largest, amount
        assert difference.mean() <= mean, amount
        assert (jitter(photo, operation, amount) != photo).any()


def test_the_amounts_of_jitter():
    """Uniform in [1 - s, 1 + s] and [-s, s], seen from the outside: on a grey image only brightness shows."""
    rng = np.random.default_rng(0)
    grey = np.full((2, 2, 3), 100, np.uint8)
    levels = np.array([colour_jitter(grey, [0.4, 0.4, 0.2, 0.1], rng)[0, 0] for _ in range(2000)]).astype(int)
    assert np.abs(levels - levels[:, :1]).max() <= 1  # still grey
    assert levels.min() in range(60, 62)
    assert levels.max() in range(139, 141)
    assert abs(levels.mean() - 100) < 4 * 23.1 / math.sqrt(2000)


def test_the_order_of_jitter_is_random(photo):
    small = resize(photo, 16, 16)
    shapes = set()
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(4).tolist()
        shapes.add(colour_jitter(small, [0.4] * 4, Script([0.6, 1.4, 1.4, 0.3], order)).tobytes())  # type: ignore[arg-type]
    assert len(shapes) > 6


def test_hue_wraps_around():
    red = np.full((2, 2, 3), [255, 0, 0], np.uint8)
    for turn, colour in ((1 / 3, [0, 255, 0]), (-1 / 3, [0, 0, 255]), (0.5, [0, 255, 255]), (-0.5, [0, 255, 255])):
        assert np.abs(jitter(red, 3, turn)[0, 0].astype(int) - colour).max() <= 6  # a level of hue


def test_grey_blur_and_solarisation(photo):
    rng = np.random.default_rng(0)
    small = resize(photo, 64, 64)
    grey = distort(small, views(grey=1.0), 0.0, 0.0, rng).astype(int)
    expected = F.rgb_to_grayscale(torch.from_numpy(small).permute(2, 0, 1), 3).permute(1, 2, 0).numpy()
    assert np.abs(grey - expected).max() <= 1
    solarized = distort(small, views(), 0.0, 1.0, rng)
    assert np.array_equal(solarized, F.solarize(torch.from_numpy(small), 128).numpy())
    point = np.zeros((33, 33, 3), np.uint8)
    point[16, 16] = 255
    blurred = [distort(point, views(), 1.0, 0.0, rng)[..., 0].astype(float) for _ in range(50)]
    widths = [math.sqrt((b.sum(0) * (np.arange(33) - 16) ** 2).sum() / b.sum()) for b in blurred]
    assert min(widths) < 0.4  # sigmas of 0.1 to 2, of which 8 bits and nine pixels see a little less
    assert 1.4 < max(widths) < 2.0


def test_flip_is_horizontal(photo):
    small = resize(photo, 16, 16)
    flipped = distort(small, views(flip=1.0), 0.0, 0.0, np.random.default_rng(0))
    assert np.array_equal(flipped, small[:, ::-1])


def test_shrinking_has_no_aliasing():
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    for height, width in ((32, 32), (100, 100), (32, 512)):  # the last one shrinks one side and enlarges the other
        assert np.abs(resize(board, height, width).astype(int) - 127.5).mean() < 30
    assert np.array_equal(resize(board, 256, 256), board)


@pytest.mark.parametrize(("size", "short"), [(224, 256), (98, 112), (64, 73), (63, 63), (32, 32)])
def test_eval_view_cuts_the_centre(size, short):
    rng = np.random.default_rng(0)
    for height, width in ((short, short + 40), (short + 40, short), (short, short)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # already of the right size: not resized
        top, left = (height - size) // 2, (width - size) // 2
        view = eval_view(image, size)
        assert view.flags.c_contiguous
        assert np.array_equal(view, image[top : top + size, left : left + size].transpose(2, 0, 1))


def test_eval_view_is_torchvisions(photo):
    x = torch.from_numpy(photo).permute(2, 0, 1)
    expected = F.center_crop(F.resize(x, [128], interpolation=F.InterpolationMode.BILINEAR, antialias=True), [112, 112])
    # an area filter against a triangle one: sharper, so edges differ, but nothing is shifted by as much as a pixel
    assert np.abs(eval_view(photo, 112).astype(int) - expected.numpy()).mean() < 5
    assert np.abs(np.roll(eval_view(photo, 112), 1, axis=2).astype(int) - expected.numpy()).mean() > 8


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (500, 3), (10, 10), (225, 224)])
def test_any_image_gives_a_view(height, width):
    image = np.full((height, width, 3), 7, np.uint8)
    for size in (8, 96, 224):
        assert eval_view(image, size).shape == (3, size, size)
        assert (eval_view(image, size) == 7).all()
    globals_, locals_ = multi_crop(image, views(), np.random.default_rng(0))
    assert (globals_ == 7).all()
    assert (locals_ == 7).all()
