"""Crops made on the device against those that OpenCV makes of the same draws, and against references of their own."""

import colorsys
import itertools
import math
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dinolab
from dinolab.data import device_views
from dinolab.data.crops import Crops, draw_crops, reduction
from dinolab.data.decode import read_image
from dinolab.data.device_views import Photos
from dinolab.data.loader import batches, photo_batches
from dinolab.data.masks import Masks
from dinolab.data.samples import pack
from dinolab.data.types import Needs, Source, Views
from dinolab.data.views import make_views, resize
from dinolab.options import Config
from dinolab.options import Views as ViewsConfig
from dinolab.recipes import load_config
from tests.pictures import TINY, make_folder

CPU = torch.device("cpu")
SIDES = 40, 24  # of global and local crops in these tests
VIEWS = 6


@pytest.fixture(scope="module")
def images(har: Path) -> list[np.ndarray]:
    """Real photos of different sizes and shapes."""
    china, flower = load_sample_images().images
    small = read_image(sorted((har / "train").iterdir())[7])
    return [china, small, np.ascontiguousarray(flower[:200, :500])]


def draws(
    image: np.ndarray, boxes: list[tuple[int, int, int, int]] | None = None, views: int = VIEWS, **all_views
) -> Crops:
    """Crops (top, left, height, width), or the whole image for each, with nothing done to them but what is named."""
    height, width = image.shape[:2]
    boxes = boxes or [(0, 0, height, width)] * views
    plain = Crops(
        size=np.array([height, width]),
        boxes=np.array(boxes),
        flip=np.zeros(len(boxes), bool),
        jitter=np.zeros(len(boxes), bool),
        factors=np.tile([1.0, 1.0, 1.0, 0.0], (len(boxes), 1)),
        order=np.tile(np.arange(4), (len(boxes), 1)),
        grey=np.zeros(len(boxes), bool),
        sigma=np.zeros(len(boxes)),
        solarize=np.zeros(len(boxes), bool),
        operations=np.full((len(boxes), 2, 2), -1.0),
        erased=np.zeros((len(boxes), 5)),
    )
    return plain._replace(**{k: np.broadcast_to(v, getattr(plain, k).shape) for k, v in all_views.items()})


def photos(images: list[np.ndarray], crops: list[Crops], sides: tuple[int, int] = SIDES) -> Photos:
    return Photos(*pack(list(zip(images, crops))), sides, None, None, torch.arange(len(images)), [])


def on_device(images: list[np.ndarray], crops: list[Crops], sides: tuple[int, int] = SIDES) -> list[list[np.ndarray]]:
    """[image][view], int (side, side, 3)."""
    views = photos(images, crops, sides).to(CPU)
    assert views.global_crops.dtype == views.local_crops.dtype == torch.uint8
    return [
        [v.permute(1, 2, 0).int().numpy() for v in (*views.global_crops[:, b], *views.local_crops[:, b])]
        for b in range(len(images))
    ]


def by_opencv(image: np.ndarray, crops: Crops, sides: tuple[int, int] = SIDES) -> list[np.ndarray]:
    out = [np.empty((3, sides[v >= 2], sides[v >= 2]), np.uint8) for v in range(len(crops.boxes))]
    make_views(image, crops, out)
    return [view.transpose(1, 2, 0).astype(int) for view in out]


def differences(images: list[np.ndarray], crops: list[Crops], sides: tuple[int, int] = SIDES) -> np.ndarray:
    """All differences between the two ways, in levels."""
    pairs = zip(on_device(images, crops, sides), (by_opencv(i, c, sides) for i, c in zip(images, crops)))
    return np.concatenate([(a - b).ravel() for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)])


def squares(images: list[np.ndarray]) -> list[np.ndarray]:
    """Images of the crops' own size, so that nothing is resized and what is done to them shows exactly."""
    return [resize(image, SIDES[0], SIDES[0]) for image in images]


BOXES = {
    "shrinks": [(0, 0, 70, 90), (3, 5, 97, 40), (20, 1, 41, 41), (7, 11, 24, 100), (60, 50, 53, 61), (0, 9, 80, 25)],
    "grows": [(0, 0, 20, 30), (70, 40, 39, 11), (9, 3, 1, 1), (5, 5, 2, 23), (60, 80, 8, 8), (31, 0, 17, 5)],
    "both": [(0, 0, 70, 30), (3, 5, 17, 80), (9, 9, 1, 100), (7, 11, 90, 10), (60, 50, 23, 25), (0, 9, 60, 1)],
    "neither": [(0, 0, 40, 40), (50, 60, 40, 40), (0, 0, 24, 24), (9, 8, 24, 24), (70, 70, 24, 24), (1, 0, 24, 24)],
}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", BOXES)
def test_crops_and_their_size(images, case, flip):
    crops = [draws(image, BOXES[case], flip=flip) for image in images]
    for image, c, views in zip(images, crops, on_device(images, crops)):
        for v, (top, left, height, width) in enumerate(c.boxes):
            side = SIDES[v >= 2]
            expected = resize(np.ascontiguousarray(image[top : top + height, left : left + width]), side, side)
            expected = expected[:, ::-1] if flip else expected
            # OpenCV rounds between shrinking and growing, and its cubic weights to eleven bits
            assert np.abs(views[v] - expected).max() <= (0 if case == "neither" else 2), (v, top, left)
            assert np.abs(views[v] - expected).mean() <= 0.3


def test_an_image_that_was_shrunk_after_its_boxes_were_drawn(images):
    smaller = [cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_REDUCED_COLOR_2) for image in images]
    crops = [draws(image, [(0, 0, 61, 71), (3, 5, 97, 41), (9, 9, 3, 3)]) for image in images]
    assert np.abs(differences(smaller, crops)).mean() < 1.5


@pytest.mark.parametrize(
    ("changes", "largest", "mean"),
    [
        ({"jitter": True, "factors": [0.6, 1, 1, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1.4, 1, 1, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1, 0.6, 1, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1, 1.4, 1, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1, 1, 0.8, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1, 1, 1.2, 0]}, 1, 0.3),
        ({"jitter": True, "factors": [1, 1, 1, 0.1]}, 8, 1.5),  # OpenCV's HSV has eight bits
        ({"jitter": True, "factors": [1, 1, 1, -0.07]}, 8, 1.5),
        ({"jitter": True, "factors": [1, 1, 1, 0.0019]}, 0, 0),  # less than half of the CPU's 256 levels of hue
        ({"jitter": False, "factors": [0.5, 0.5, 0.5, 0.3]}, 0, 0),
        ({"grey": True}, 1, 0.1),
        ({"grey": True, "jitter": True, "factors": [1.2, 0.7, 0.8, 0.1]}, 3, 1),
        ({"sigma": 0.1}, 0, 0),
        ({"sigma": 0.5}, 1, 0.1),
        ({"sigma": 2.0}, 1, 0.1),
        ({"solarize": True}, 0, 0),
        ({"solarize": True, "sigma": 1.0, "flip": True}, 1, 0.1),
    ],
)
def test_one_distortion_at_a_time(images, changes, largest, mean):
    small = squares(images)
    crops = [draws(image, views=2, **changes) for image in small]
    found = np.abs(differences(small, crops))
    assert found.max() <= largest
    assert found.mean() <= mean
    undone = largest == 0 and "solarize" not in changes
    plain = on_device(small, [draws(image, views=2) for image in small])
    assert undone == np.array_equal(plain, on_device(small, crops))


def test_what_cubic_weights_add_at_an_edge_is_cut_off_before_colours_change():
    edge = np.zeros((20, 20, 3), np.uint8)
    edge[:, 10:] = 255
    (views,) = on_device([edge], [draws(edge, jitter=True, factors=[0.6, 1, 1, 0.25])])
    assert max(view.max() for view in views) == 153


def test_every_order_of_colours(images):
    """All of them in a single micro-batch, some clipping, each crop with factors of its own."""
    rng = np.random.default_rng(0)
    orders = np.array(list(itertools.permutations(range(4))))
    small = squares(images)
    crops = [
        draws(image, views=len(orders), jitter=True, order=orders)._replace(
            factors=rng.uniform([0.6, 0.6, 0.8, -0.1], [1.4, 1.4, 1.2, 0.1], (len(orders), 4)),
            grey=rng.random(len(orders)) < 0.2,
        )
        for image in small
    ]
    for ours, image, c in zip(on_device(small, crops, (40, 40)), small, crops):
        for a, b, order in zip(ours, by_opencv(image, c, (40, 40)), orders):
            assert np.abs(a - b).mean() < 1.7, order


def test_hue_is_that_of_colorsys(images):
    (image,) = squares(images)[:1]
    turns = np.arange(-2, 4) / 16  # whole levels of the CPU's 256
    (views,) = on_device(
        [image], [draws(image, jitter=True, factors=np.insert(np.ones((6, 3)), 3, turns, axis=1))], (40, 40)
    )
    for view, turn in zip(views, turns):
        for (r, g, b), ours in zip(image.reshape(-1, 3)[::7] / 255, view.reshape(-1, 3)[::7]):
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            expected = 255 * np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
            assert np.abs(ours - expected).max() <= 0.51


def test_all_distortions_together(images):
    cfg, rng = ViewsConfig(global_size=40, local_size=24, locals=4), np.random.default_rng(0)
    many = images * 6
    crops = [draw_crops(*image.shape[:2], cfg, rng) for image in many]
    found = np.abs(differences(many, crops))
    assert found.mean() < 1.5
    assert np.quantile(found, 0.99) < 12


def test_draws_are_kept_apart(images):
    """Every crop as when it is alone in its micro-batch."""
    cfg, rng = ViewsConfig(global_size=40, local_size=24, locals=4), np.random.default_rng(1)
    crops = [draw_crops(*image.shape[:2], cfg, rng) for image in images]
    together = on_device(images, crops)
    for image, c, views in zip(images, crops, together):
        for a, b in zip(views, on_device([image], [c])[0]):
            assert np.abs(a - b).max() <= 1  # products of other shapes add in another order


def test_neighbours_and_surroundings_never_leak():
    sizes = [(50, 30), (20, 90), (8, 8), (64, 64)]
    shades = [255, 0, 255, 90]
    flat = [np.full((*size, 3), shade, np.uint8) for size, shade in zip(sizes, shades)]
    crops = [
        draws(i, [(0, 0, h, w), (h - 3, w - 5, 3, 5), (0, 0, 1, 1), (1, 2, h - 1, w - 2)])
        for i, (h, w) in zip(flat, sizes)
    ]
    for views, shade in zip(on_device(flat, crops), shades):
        assert all((view == shade).all() for view in views)
    framed = np.full((40, 60, 3), 255, np.uint8)  # cubic weights reach beyond the box, but may not see what is there
    framed[10:20, 30:45] = 0
    (views,) = on_device([framed], [draws(framed, [(10, 30, 10, 15), (10, 30, 10, 1), (11, 31, 3, 3), (19, 44, 1, 1)])])
    assert all((view == 0).all() for view in views)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (500, 3), (10, 10)])
def test_any_image_gives_views(height, width):
    image = np.full((height, width, 3), 7, np.uint8)
    cfg = ViewsConfig(global_size=40, local_size=24, locals=4, solarize=0.0, jitter=0.0)
    (views,) = on_device([image], [draw_crops(height, width, cfg, np.random.default_rng(0))])
    assert len(views) == 6
    assert all((view == 7).all() for view in views)


def test_no_local_crops(images):
    views = photos(images, [draws(image, views=2) for image in images]).to(CPU)
    assert views.global_crops.shape == (2, 3, 3, 40, 40)
    assert views.local_crops.shape == (0, 3, 3, 24, 24)
    assert np.abs(differences(images, [draws(image, views=2) for image in images])).mean() < 2


class Watch(TorchDispatchMode):
    """Refuses what would make the process wait for a GPU, and knows how many bytes of tensors there are at most."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} would wait for the device"
        if name == "index":
            assert all(i is None or i.dtype == torch.int64 for i in args[1]), (
                "a boolean index would wait for the device"
            )
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        return out

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_nothing_waits_for_the_device(images):
    cfg, rng = ViewsConfig(global_size=40, local_size=24, locals=4), np.random.default_rng(0)
    some = photos(images, [draw_crops(*image.shape[:2], cfg, rng) for image in images])
    with Watch():
        some.to(CPU)
    for waits in (lambda x: x.max().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.sum() > 0)):
        with pytest.raises(AssertionError, match="would wait"), Watch():
            waits(torch.ones(3))


def test_memory_stays_within_the_budget(images, monkeypatch):
    cfg, rng = ViewsConfig(global_size=40, local_size=24, locals=4), np.random.default_rng(0)
    many = images * 4
    some = photos(many, [draw_crops(*image.shape[:2], cfg, rng) for image in many])
    whole = some.to(CPU)
    made = whole.global_crops.nbytes + whole.local_crops.nbytes
    for budget in (30 << 20, 60 << 20):
        monkeypatch.setattr(device_views, "MEMORY", budget)
        with Watch() as watch:
            views = some.to(CPU)
        assert budget / 4 < watch.most - made <= budget
        for a, b in zip(views[:2], whole[:2]):
            assert (a.int() - b.int()).abs().max() <= 1


def test_parts():
    sizes = np.array([[30, 41], [400, 10], [16, 16], [900, 900], [7, 8]])
    for budget in (1, 4 << 20, 20 << 20, 1 << 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device_views, "MEMORY", budget)
            parts = list(device_views.parts(sizes, [(2, 40), (4, 24)]))
        assert [n for part, _, _ in parts for n in range(5)[part]] == list(range(5))
        for part, height, width in parts:
            assert height % 8 == width % 8 == 0
            assert (np.array([height, width]) - sizes[part].max(axis=0) >= 0).all()
            assert (np.array([height, width]) - sizes[part].max(axis=0) < 8).all()
        assert len(parts) == {1: 5, 1 << 40: 1}.get(budget, len(parts))
    parts = list(device_views.parts(np.tile([2000, 3000], (64, 1)), [(2, 224), (8, 96)]))
    assert 1 < len(parts) < 64
    assert len({part.stop - part.start for part, _, _ in parts[:-1]}) == 1


def config(**run) -> Config:
    cfg = Config()
    cfg.optim.batch_size, cfg.model.patch_size = 6, 8
    cfg.views.global_size, cfg.views.local_size, cfg.views.locals = 48, 24, 3
    for name, value in run.items():
        setattr(cfg.run, name, value)
    return cfg


def compare(source: Source, cfg: Config, workers: int = 0) -> float:
    """Mean difference of the two paths' crops, in levels; all else must be the same."""
    found = []
    masked = Needs(masks=Masks(), grid=6)
    made = batches(source, cfg, 0, 3, 0, needs=masked), photo_batches(source, cfg, 0, 3, workers, needs=masked)
    for step, photos in zip(*made, strict=True):
        for ours, theirs in zip([photo.to(CPU) for photo in photos], step, strict=True):
            assert isinstance(ours, Views)
            assert all(torch.equal(a, b) for a, b in zip(ours[2:5], theirs[2:5]))
            assert ours.masks is not None
            assert ours.masks.shape == (2, cfg.run.micro_batch or 6, 36)
            assert ours.broken == theirs.broken
            for a, b in zip(ours[:2], theirs[:2]):
                assert a.shape == b.shape
                found.append((a.int() - b.int()).abs().float().mean().item())
    return float(np.mean(found))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_the_loader_hands_over_the_same_crops(har, workers, micro_batch):
    paths = sorted(str(path) for path in (har / "train").iterdir())[:12]
    assert compare(Source("har", paths, None, []), config(micro_batch=micro_batch), workers) < 1


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_large_images_are_handed_over_small(images, tmp_path, ending):
    """A JPEG is decoded at a fraction of its size, anything else shrunk after."""
    path = str(tmp_path / f"large.{ending}")
    cv2.imwrite(path, cv2.resize(images[0], (1500, 1001), interpolation=cv2.INTER_CUBIC)[..., ::-1])
    source, cfg = Source("large", [path], None, []), config(micro_batch=1)
    (photos, *_) = next(photo_batches(source, cfg, 0, 1, 0))
    rng = dinolab.data.draws.rng(cfg.seed, dinolab.data.draws.SAMPLE, 0)
    factor = reduction(draw_crops(1001, 1500, cfg.views, rng), cfg.views)
    assert factor >= 4
    assert photos.sizes[0].tolist() == [math.ceil(1001 / factor), math.ceil(1500 / factor)]
    assert len(photos.pixels) == 3 * photos.sizes[0].prod()
    assert compare(source, cfg) < 3


def test_a_run(tmp_path):
    """On the CPU too, if asked; not by itself."""
    data = make_folder(tmp_path / "data")

    def train(*words: str) -> bytes:
        run = tmp_path / "".join(words)
        few = ["optim.length=3 steps", "eval.every=0 steps", "run.save_every=3 steps"]
        dinolab.train(load_config(None, [*TINY, *few, f"data.path={data}", f"run.dir={run}", *words]))
        return (run / "model.safetensors").read_bytes()

    on, off, auto = (train(f"run.device_views={way}") for way in ("always", "never", "auto"))
    assert on != off
    assert auto == off


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("budget", [8 << 20, 512 << 20])
def test_on_a_gpu(images, budget, monkeypatch):
    """Without ever waiting for it, and within a level of what the CPU makes with the same arithmetic."""
    monkeypatch.setattr(device_views, "MEMORY", budget)
    cfg, rng = ViewsConfig(global_size=40, local_size=24, locals=4), np.random.default_rng(0)
    some = photos(images, [draw_crops(*image.shape[:2], cfg, rng) for image in images])
    expected = some.to(CPU)
    pinned = some._replace(
        pixels=some.pixels.pin_memory(), sizes=some.sizes.pin_memory(), crops=some.crops.pin_memory()
    )
    gpu = torch.device("cuda")
    pinned.to(gpu)  # the first call loads kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = pinned.to(gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(views[:2], expected[:2]):
        assert a.device.type == "cuda"
        difference = (a.cpu().int() - b.int()).abs().float()
        assert difference.max() <= 3
        assert difference.mean() < 0.2
