"""The views against torchvision's transforms and Pillow's filters, which the published recipes use."""

import io
import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2 import functional as F

from dinolab import options
from dinolab.data.crops import BRIGHTNESS, CONTRAST, HUE, SATURATION, Crops, draw_crops, reduction
from dinolab.data.decode import decode
from dinolab.data.views import blur, colour_jitter, eval_view, make_views, resample, resize

ORDERS = list(itertools.permutations(range(4)))
NOTHING = [1.0, 1.0, 1.0, 0.0]  # factors that change no colour


def multi_crop(image: np.ndarray, cfg: options.Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two global and L local views of one image, uint8 (H, W, 3), RGB.

    Returns:
        globals uint8 (2, 3, S, S) and locals uint8 (L, 3, s, s).
    """
    globals_ = np.empty((2, 3, cfg.global_size, cfg.global_size), np.uint8)
    locals_ = np.empty((cfg.locals, 3, cfg.local_size, cfg.local_size), np.uint8)
    make_views(image, draw_crops(image.shape[0], image.shape[1], cfg, rng), [*globals_, *locals_])
    return globals_, locals_


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photo, uint8 (427, 640, 3)."""
    return load_sample_image("china.jpg").copy()


@pytest.fixture(scope="module")
def pale(photo) -> np.ndarray:
    """Part of the photo in levels 90 to 166, where no colour jitter clips; uint8 (100, 120, 3)."""
    return (90 + photo[100:200, 200:320] * 0.3).astype(np.uint8)


def views(**changes) -> options.Views:
    """Views with every distortion off but those named."""
    off = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": [0.0, 0.0, 0.0], "solarize": 0.0}
    return options.Views(**{"global_size": 24, "local_size": 12, "locals": 2, **off, **changes})


def whole(image: np.ndarray, **changes) -> Crops:
    """The draws for one crop of the whole image, with nothing done to it but what is named."""
    height, width = image.shape[:2]
    off = np.zeros(1, bool)
    plain = Crops(
        size=np.array([height, width]), boxes=np.array([[0, 0, height, width]]), flip=off, jitter=off,
        factors=np.array([NOTHING]), order=np.arange(4)[None], grey=off, sigma=np.zeros(1), solarize=off,
        operations=np.full((1, 2, 2), -1.0), erased=np.zeros((1, 5)),
    )  # fmt: skip
    return plain._replace(**{name: np.array([value]) for name, value in changes.items()})


def make_one(image: np.ndarray, crops: Crops, size: int) -> np.ndarray:
    """The one view that these draws make, int (size, size, 3)."""
    out = np.empty((1, 3, size, size), np.uint8)
    make_views(image, crops, list(out))
    return out[0].transpose(1, 2, 0).astype(int)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy().astype(int)


def test_shapes_and_determinism(photo):
    cfg = options.Views(global_size=32, local_size=16, locals=3)
    globals_, locals_ = multi_crop(photo, cfg, np.random.default_rng(1))
    assert (globals_.shape, locals_.shape) == ((2, 3, 32, 32), (3, 3, 16, 16))
    assert (globals_.dtype, locals_.dtype) == (np.uint8, np.uint8)
    again = multi_crop(photo, cfg, np.random.default_rng(1))
    assert np.array_equal(again[0], globals_)
    assert np.array_equal(again[1], locals_)
    assert not np.array_equal(multi_crop(photo, cfg, np.random.default_rng(2))[0], globals_)
    assert not np.array_equal(globals_[0], globals_[1])
    assert multi_crop(photo, options.Views(locals=0), np.random.default_rng(1))[1].shape == (0, 3, 96, 96)


def test_a_view_is_a_copy_of_the_image_and_the_image_is_left_alone(photo):
    before = photo.copy()
    for side in (32, 427):  # at 427 x 427 a crop may need no resizing
        cfg = options.Views(global_size=side, local_size=16, global_scale=[0.66, 0.67], flip=0.0)
        multi_crop(photo, cfg, np.random.default_rng(0))
    make_views(
        photo,
        whole(photo, jitter=True, order=[3, 0, 1, 2], factors=[1, 1, 1, 0.1]),
        [np.empty((3, 427, 640), np.uint8)],
    )
    assert np.array_equal(photo, before)
    colours = np.broadcast_to(np.array([200, 40, 10], np.uint8), (50, 60, 3)).copy()
    for crop in multi_crop(colours, views(), np.random.default_rng(0)):  # channels in place
        assert (crop == np.array([200, 40, 10], np.uint8)[:, None, None]).all()


def differs(photo: np.ndarray, cfg: options.Views, draws: int) -> np.ndarray:
    """Share of draws in which a view differs from the plain resized image: of the two globals, and of the locals.

    Crops of the whole image, so that nothing but the distortion changes.
    """
    small = resize(photo[:400, :400], 48, 48)
    cfg.global_scale = cfg.local_scale = [1.0, 1.0]
    cfg.aspect = [1.0, 1.0]
    plain = [resample(small, size, size).transpose(2, 0, 1) for size in (cfg.global_size, cfg.local_size)]
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


def torchvisions(image: np.ndarray, factors: list[float], order: tuple[int, ...]) -> np.ndarray:
    """torchvision's ColorJitter with these factors, clipped to whole levels after each step."""
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    x = tensor(image)
    for kind in order:
        x = adjust[kind](x, factors[kind])
    return array(x)


@pytest.mark.parametrize(
    ("kind", "amounts", "largest", "mean"),
    [
        (BRIGHTNESS, [0.6, 0.9, 1.4], 1, 0.01),
        (CONTRAST, [0.6, 0.9, 1.4], 2, 1.0),  # and its grey, from which the mean comes, is cut as well
        (SATURATION, [0.8, 1.2, 0.0, 2.0], 2, 1.0),
        (HUE, [-0.1, -0.03, 0.05, 0.1], 8, 1.6),  # hue in 256 levels: half of one is 3 of 255 in a saturated pixel
    ],
)
def test_colours_are_torchvisions(photo, kind, amounts, largest, mean):
    photo = np.ascontiguousarray(photo[::2, ::2])
    for amount in amounts:
        factors = NOTHING.copy()
        factors[kind] = amount
        ours = colour_jitter(photo, factors, [kind, *(n for n in range(4) if n != kind)])
        difference = np.abs(ours - torchvisions(photo, factors, (kind,)))
        assert difference.max() <= largest, amount
        assert difference.mean() <= mean, amount
        assert (ours != photo).any()


def test_colours_that_change_nothing_leave_every_level(photo):
    assert np.array_equal(colour_jitter(photo, NOTHING, range(4)), photo)


@pytest.mark.parametrize("order", ORDERS[::3])
def test_colours_in_any_order_are_torchvisions(photo, order):
    """Bright and dark parts are clipped on the way, after every step. torchvision cuts grey's fractions; hue has 256 levels here."""
    photo = np.ascontiguousarray(photo[::2, ::2])
    for hue, bound in ((0.0, 1.3), (0.07, 2.0)):
        for factors in ([1.4, 0.6, 1.2, hue], [0.6, 1.4, 0.8, hue], [1.39, 0.63, 0.9, hue]):
            ours, theirs = colour_jitter(photo, factors, order), torchvisions(photo, factors, order)
            assert np.abs(ours - theirs).mean() <= bound
            assert abs((ours - theirs).mean()) <= 1.3


def test_the_order_of_jitter_matters(photo):
    small = resize(photo, 16, 16)
    assert len({colour_jitter(small, [0.6, 1.4, 1.4, 0.3], order).tobytes() for order in ORDERS}) > 6


def test_hue_wraps_around():
    red = np.full((2, 2, 3), [255, 0, 0], np.uint8)
    for turn, colour in ((1 / 3, [0, 255, 0]), (-1 / 3, [0, 0, 255]), (0.5, [0, 255, 255]), (-0.5, [0, 255, 255])):
        turned = colour_jitter(red, [1, 1, 1, turn], range(4))
        assert np.abs(turned[0, 0].astype(int) - colour).max() <= 6  # a level of hue


def test_grey_and_solarisation(photo):
    small = resize(photo, 64, 64)
    grey = array(F.rgb_to_grayscale(tensor(small), 3))
    assert np.abs(make_one(small, whole(small, grey=True), 64) - grey).max() <= 1
    assert np.abs(make_one(small, whole(small, grey=True, jitter=True), 64) - grey).max() <= 1
    assert np.array_equal(make_one(small, whole(small, solarize=True), 64), array(F.solarize(tensor(small), 128)))
    blurred_first = array(F.solarize(F.gaussian_blur(tensor(small), [9, 9], [2.0, 2.0]), 128))
    assert np.abs(make_one(small, whole(small, sigma=2.0, solarize=True), 64) - blurred_first).max() <= 2


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions(photo, sigma):
    expected = array(F.gaussian_blur(tensor(photo), [9, 9], [sigma, sigma]))
    difference = np.abs(blur(photo, sigma) - expected)
    assert difference.max() <= 2
    assert difference.mean() <= 0.1


def test_blur_has_its_width():
    point = np.zeros((33, 33, 3), np.uint8)
    point[16, 16] = 255
    for sigma, low, high in ((0.1, 0.0, 0.01), (1.0, 0.9, 1.01), (2.0, 1.7, 2.0)):  # 9 pixels see a little less
        blurred = make_one(point, whole(point, sigma=sigma), 33)[..., 0]
        width = math.sqrt((blurred.sum(0) * (np.arange(33) - 16) ** 2).sum() / blurred.sum())
        assert low <= width <= high


def test_flip_is_horizontal(photo):
    small = resize(photo, 16, 16)
    assert np.array_equal(make_one(small, whole(small, flip=True), 16), small[:, ::-1])


def published(image: np.ndarray, crops: Crops, size: int) -> np.ndarray:
    """The first view by Pillow and torchvision, in the published order, int (size, size, 3)."""
    top, left, height, width = crops.boxes[0].tolist()
    crop = Image.fromarray(image[top : top + height, left : left + width]).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    view = np.array(crop)[:, ::-1] if crops.flip[0] else np.array(crop)
    if crops.jitter[0]:
        view = torchvisions(view, crops.factors[0].tolist(), crops.order[0].tolist()).astype(np.uint8)
    x = tensor(view)
    x = F.rgb_to_grayscale(x, 3) if crops.grey[0] else x
    x = F.gaussian_blur(x, [9, 9], [crops.sigma[0]] * 2) if crops.sigma[0] else x
    return array(F.solarize(x, 128) if crops.solarize[0] else x)


def test_views_are_the_published_ones_with_the_same_draws(pale):
    """Each step alone is bounded above; together, where nothing clips, this shows that their order is the published one."""
    cfg, rng = options.Views(locals=0, blur=[0.5, 0.1, 0.5]), np.random.default_rng(0)
    for number in range(40):
        crops = draw_crops(*pale.shape[:2], cfg, rng)
        crops = crops._replace(solarize=np.full(2, number % 4 == 0))
        difference = np.abs(make_one(pale, crops, 64) - published(pale, crops, 64))
        assert difference.mean() <= 3
        assert difference.max() <= 24


@pytest.mark.parametrize(("size", "factors"), [(180, {2, 4}), (90, {4, 8}), (40, {8})])
def test_views_from_a_reduced_decode_are_near_those_from_the_full_one(photo, size, factors):
    """In an image whose sides 8 does not divide. Boxes are rounded to reduced pixels: half a pixel of the view or less."""
    file = io.BytesIO()
    Image.fromarray(resize(photo, 853, 1279)).save(file, "JPEG", quality=95)
    cfg = views(global_size=size, local_size=size // 2, locals=1, local_scale=[0.3, 0.6])
    rng, used, distances = np.random.default_rng(0), set(), []
    for _ in range(10):
        crops = draw_crops(853, 1279, cfg, rng)
        factor = reduction(crops, cfg)
        used.add(factor)
        full, reduced = ([np.empty((3, n, n), np.uint8) for n in (size, size, size // 2)] for _ in range(2))
        make_views(decode(file.getvalue(), "", 1), crops, full)
        make_views(decode(file.getvalue(), "", factor), crops, reduced)
        for a, b in zip(full, reduced):
            shifted = [np.roll(b, shift, axis) for axis in (1, 2) for shift in (1, -1)]
            distances.append([np.abs(a.astype(int) - x).mean() for x in (b, *shifted)])
    same, *moved = np.mean(distances, axis=0)
    assert used == factors
    assert same <= 5
    assert same <= 0.6 * min(moved)


@pytest.mark.parametrize(("height", "width"), [(1000, 1501), (801, 999)])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_cuts_from_a_reduced_image(height, width, factor, monkeypatch):
    """They lie inside it, within half a pixel of where they were drawn, and are never smaller than the view."""
    places = np.indices((-(-height // factor), -(-width // factor))).transpose(
        1, 2, 0
    )  # as an image: each pixel is its place
    cuts: list[np.ndarray] = []

    def keep(cut: np.ndarray, height: int, width: int) -> np.ndarray:
        cuts.append(cut)
        return np.zeros((height, width, 3), np.uint8)

    monkeypatch.setattr("dinolab.data.views.resample", keep)
    sizes = [320 // factor] * 2 + [160 // factor] * 6
    cfg = views(global_size=sizes[0], local_size=sizes[-1], locals=6, global_scale=[0.3, 1.0], local_scale=[0.1, 0.5])
    drawn = [draw_crops(height, width, cfg, np.random.default_rng(seed)) for seed in range(100)]
    drawn = [crops for crops in drawn if reduction(crops, cfg) >= factor]
    assert len(drawn) > 10
    for crops in drawn:
        cuts.clear()
        make_views(places, crops, [np.empty((3, n, n), np.uint8) for n in sizes])
        for cut, box, size in zip(cuts, crops.boxes, sizes):
            assert min(cut.shape[:2]) >= size
            assert np.array_equal(cut[-1, -1] - cut[0, 0] + 1, cut.shape[:2])
            assert np.abs(cut[0, 0] - box[:2] / factor).max() <= 0.5
            assert np.abs(cut[-1, -1] + 1 - (box[:2] + box[2:]) / factor).max() <= 0.5


@pytest.mark.parametrize(
    ("height", "width", "reduced"),
    [(1, 1, False), (2, 2, False), (1, 300, False), (300, 1, False), (23, 25, True), (33, 70, True), (131, 65, True)],
)
def test_views_of_a_small_jpeg(height, width, reduced):
    """The loader's way, with the smallest views there are."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (70, 120, 30)).save(file, "JPEG", quality=95, subsampling=0)
    cfg, rng, used = views(global_size=8, local_size=8, local_scale=[0.05, 1.0]), np.random.default_rng(0), set()
    for _ in range(60):
        crops = draw_crops(height, width, cfg, rng)
        used.add(reduction(crops, cfg))
        out = np.empty((4, 3, 8, 8), np.uint8)
        make_views(decode(file.getvalue(), "", reduction(crops, cfg)), crops, list(out))
        assert np.abs(out - np.array([70, 120, 30])[:, None, None]).max() <= 2
    assert (max(used) > 1) == reduced


def test_resizing_has_no_aliasing():
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    for change in (resize, resample):
        for height, width in ((32, 32), (100, 100), (32, 512)):  # the last one shrinks one side and enlarges the other
            assert np.abs(change(board, height, width).astype(int) - 127.5).mean() < 30
        assert np.array_equal(change(board, 256, 256), board)


@pytest.mark.parametrize("across", [1.0, 1.3])
@pytest.mark.parametrize(
    ("down", "mean", "high"),  # bounds as measured on this photo, and a tenth more
    [(0.5, 1.1, 8), (0.75, 1.0, 8), (1.0, 1.5, 12), (1.25, 1.8, 12), (1.5, 2.4, 18), (2.0, 2.7, 20),
     (2.5, 2.2, 16), (3.0, 2.3, 15), (4.0, 2.2, 15), (6.0, 2.4, 15), (8.0, 2.3, 14)],
)  # fmt: skip
def test_resampling_is_near_pillows_antialiased_bicubic(photo, down, across, mean, high):
    """Mean and 99th percentile of the difference; no shift; sharpness within a fifth, as measured."""
    image = np.ascontiguousarray(photo[:400, :600])
    height, width = round(400 / down), round(600 / (down * across))
    ours = resample(image, height, width).astype(int)
    pillows = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(ours - pillows)
    assert difference.mean() <= mean
    assert np.percentile(difference, 99) <= high
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        assert difference.mean() <= 0.3 * np.abs(np.roll(ours, shift, axis) - pillows).mean()
    ours_sharp, pillows_sharp = (sum(np.abs(np.diff(x, axis=axis)).mean() for axis in (0, 1)) for x in (ours, pillows))
    assert 0.8 <= ours_sharp / pillows_sharp <= 1.2


@pytest.mark.parametrize(("size", "short"), [(224, 256), (98, 112), (64, 73), (63, 63), (32, 32)])
def test_eval_view_cuts_the_centre(size, short):
    rng = np.random.default_rng(0)
    for height, width in ((short, short + 40), (short + 40, short), (short, short)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # already of the right size: not resized
        top, left = (height - size) // 2, (width - size) // 2
        view = eval_view(image, size)
        assert view.flags.c_contiguous
        assert np.array_equal(view, image[top : top + size, left : left + size].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [224, 112, 64])
@pytest.mark.parametrize("cut", [(427, 640), (640, 427), (131, 90), (300, 1)])
def test_eval_view_is_that_of_the_published_evaluations(photo, size, cut):
    """Pillow's bicubic filter through torchvision: enlarged and shrunk, sides of odd numbers, upright and wide."""
    image = np.resize(photo, (*cut, 3)) if cut[0] > 427 else photo[: cut[0], : cut[1]]
    short = round(size * 256 / 224)
    resized = F.resize(Image.fromarray(image), [short], interpolation=F.InterpolationMode.BICUBIC)
    expected = np.array(F.center_crop(resized, [size, size])).transpose(2, 0, 1)
    difference = np.abs(eval_view(image, size).astype(int) - expected)
    assert difference.mean() <= 0.05
    assert difference.max() <= 1


def test_eval_view_of_a_wide_shape_keeps_proportions():
    """A circle stays one, and no border is made up."""
    image = np.full((200, 200, 3), 50, np.uint8)
    cv2.circle(image, (100, 100), 30, (250, 250, 250), -1)
    view = eval_view(image, (70, 140))
    assert view.shape == (3, 70, 140)
    bright = view[0] > 150
    assert abs(int(bright.any(0).sum()) - int(bright.any(1).sum())) <= 1
    assert bright.any(0).sum() == pytest.approx(60 * 160 / 200, abs=2)  # 140 is 7/8 of 160, to which the width goes
    assert (view[:, [0, -1]] == 50).all() and (view[:, :, [0, -1]] == 50).all()
    assert np.array_equal(eval_view(image, (70, 70)), eval_view(image, 70))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 2), (1, 300), (300, 1), (3, 500), (500, 3), (10, 10), (225, 224)]
)
def test_any_image_gives_a_view(height, width):
    image = np.full((height, width, 3), 7, np.uint8)
    for size in (8, 96, 224):
        assert eval_view(image, size).shape == (3, size, size)
        assert (eval_view(image, size) == 7).all()
    for cfg in (views(), options.Views(global_size=32, local_size=16, jitter=0.0, solarize=0.0)):
        for seed in range(5):
            globals_, locals_ = multi_crop(image, cfg, np.random.default_rng(seed))
            assert (globals_ == 7).all()
            assert (locals_ == 7).all()
