"""RandAugment and random erasing: the operations against timm's on Pillow images, and how often they are drawn."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data.auto_augment import NAME_TO_OP

from dinolab import options
from dinolab.data.crops import APPLIED, Crops, draw_crops
from dinolab.data.distortions import OPERATIONS, erase
from dinolab.data.samples import MicroBatches
from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.recipes import load_config
from tests.pictures import make_folder

VIEWS = options.Views(global_size=32, local_size=16, locals=2, randaugment=9, erase=0.5)
TIMMS = {  # name in timm, and its argument for an amount of 0.8
    "autocontrast": ("AutoContrast", ()), "equalize": ("Equalize", ()), "invert": ("Invert", ()), "rotate": ("Rotate", (24.0,)),
    "posterize": ("Posterize", (1,)), "solarize": ("Solarize", (52,)), "solarize_add": ("SolarizeAdd", (88,)),
    "colour": ("Color", (1.72,)), "contrast": ("Contrast", (1.72,)), "brightness": ("Brightness", (1.72,)),
    "sharpness": ("Sharpness", (1.72,)), "shear_x": ("ShearX", (0.24,)), "shear_y": ("ShearY", (0.24,)),
    "shift_x": ("TranslateXRel", (0.36,)), "shift_y": ("TranslateYRel", (0.36,)),
}  # fmt: skip
TWO_SIDED = {
    name for name, (_, args) in TIMMS.items() if args and name not in ("posterize", "solarize", "solarize_add")
}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Part of a real photo with less contrast, uint8 (120, 160, 3)."""
    return (40 + 0.6 * load_sample_image("china.jpg")[100:220, 200:360]).astype(np.uint8)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sign", [1, -1])
def test_operations_are_timms(photo, operation, sign):
    name, args = TIMMS[operation.__name__]
    if sign < 0 and operation.__name__ in TWO_SIDED:
        args = tuple(2 - arg if arg > 1 and arg < 2 else -arg for arg in args)
    kwargs = {"fillcolor": (124, 116, 104), "resample": Image.Resampling.BICUBIC}
    theirs = np.asarray(NAME_TO_OP[name](Image.fromarray(photo), *args, **kwargs)).astype(int)
    before = photo.copy()
    ours = operation(photo, 0.8 * sign)
    assert ours.dtype == np.uint8 and ours.shape == photo.shape and np.array_equal(photo, before)
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.mean() < 1.5 and np.quantile(apart, 0.98) <= 6
    assert np.abs(theirs - photo).mean() > 3  # it does change something


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
def test_an_image_of_one_colour_is_no_trouble(operation):
    flat = np.full((9, 8, 3), 77, np.uint8)
    for amount in (-1.0, 0.0, 1.0):
        assert operation(flat, amount).shape == flat.shape


def test_a_box_is_erased_and_nothing_else(photo):
    erased = erase(photo, np.array([0.25, 0.5, 0.5, 0.25, 7]))
    changed = (erased != photo).any(axis=2)
    assert changed[30:90, 80:120].mean() > 0.95 and changed.sum() == changed[30:90, 80:120].sum()
    assert not np.array_equal(erased, erase(photo, np.array([0.25, 0.5, 0.5, 0.25, 8])))


def stacked(cfg: options.Views, number: int) -> Crops:
    rng = np.random.default_rng(0)
    return Crops(*map(np.stack, zip(*(draw_crops(50, 60, cfg, rng) for _ in range(number)))))


def test_draws_have_the_distribution_of_deit():
    crops = stacked(VIEWS, 1000)  # of 4 crops
    places, amounts = crops.operations[..., 0], crops.operations[..., 1]
    assert places.shape == (1000, 4, APPLIED) and (places < 0).mean() == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(places[places >= 0].astype(int), minlength=len(OPERATIONS))
    assert len(counts) == len(OPERATIONS) and counts == pytest.approx(counts.mean(), rel=0.25)
    assert np.abs(amounts).mean() == pytest.approx(0.9, abs=0.01) and np.abs(amounts).max() == 1
    assert (amounts > 0).mean() == pytest.approx(0.5, abs=0.02)
    _, _, tall, wide, _ = np.moveaxis(crops.erased, -1, 0)
    some = tall > 0
    assert some.mean() == pytest.approx(0.5, abs=0.03)
    area = (tall * wide)[some]
    assert area.min() > 0.019 and area.max() < 0.335 and area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)


def test_without_them_the_same_is_drawn_as_ever():
    """Runs of earlier versions go on with the same crops."""
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    plain = options.Views(locals=2)
    with_them = options.Views(locals=2, randaugment=9, erase=1.0)
    one, other = draw_crops(50, 60, plain, rng), draw_crops(50, 60, with_them, again)
    assert all(np.array_equal(a, b) for a, b in zip(one[:-2], other[:-2]))
    assert (one.operations == [-1, 0]).all() and not one.erased.any() and (other.erased[:, 2] > 0).all()
    fresh = np.random.default_rng(3)
    fresh.random((4, 10, 4))  # boxes
    fresh.random((4, 14))  # the rest
    assert rng.random() == fresh.random()


def test_views_depend_on_their_number_alone(tmp_path):
    source = open_source(str(make_folder(tmp_path, per_class=4)))
    sizes = ["views.global_size=32", "views.local_size=16", "views.locals=1", "optim.batch_size=4"]
    cfg = load_config(None, ["method=dino", *sizes, "views.randaugment=9", "views.erase=1"])
    first = [MicroBatches(source, cfg)[u] for u in range(3)]
    again = MicroBatches(source, cfg)[2]
    assert np.array_equal(first[2].global_crops, again.global_crops)
    cfg.views.randaugment = 0
    assert not np.array_equal(MicroBatches(source, cfg)[2].global_crops, again.global_crops)


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"run\.device_views=always: RandAugment .* set run\.device_views=never"):
        load_config(None, ["views.erase=0.1", "run.device_views=always"])
    words = ["method=distill", "teacher=starter", "teacher_views=whole", "loss.patches=1", "views.randaugment=9"]
    with pytest.raises(UserError, match=r"views\.randaugment=9: it moves .* set views\.randaugment=0"):
        load_config(None, words)
