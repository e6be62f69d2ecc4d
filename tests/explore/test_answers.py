"""What the server says about images is what Python says."""

import io
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.spatial import procrustes

from dinolab.curation.graph import search
from dinolab.data.sources import open_source
from dinolab.evals.knn import predict
from dinolab.explore.later import Busy, Later
from dinolab.explore.maps import aligned, pca_map, place_by_neighbours
from dinolab.explore.umap_map import umap_map
from dinolab.features.embed import embed
from dinolab.features.neighbours import nearest
from dinolab.models.encoder import evaluating
from dinolab.visuals.attention import attention_maps, mass_mask
from dinolab.visuals.images import fit_patches, patch_features, read_picture
from dinolab.visuals.similarity import similarity_map
from dinolab.weights.load import load

client_of = pytest.importorskip("starlette.testclient").TestClient


@pytest.fixture(scope="module")
def client(session):
    from dinolab.explore.server import make_app

    return client_of(
        make_app(session, "secret", ["127.0.0.1:8123"]), "http://127.0.0.1:8123", cookies={"dinolab_8123": "secret"}
    )


@pytest.fixture
def ask(client):
    """The answer at an address below api/, once it is there: JSON, an array, or the bytes of an image."""

    def answer(path, kind=None):
        for _ in range(600):
            found = client.get(f"/api/{path}")
            if found.status_code != 202:
                break
            assert found.json()["message"]
            time.sleep(0.1)
        assert found.status_code == 200, found.text
        if kind is None:
            return found.json() if "json" in found.headers["content-type"] else found.content
        shape = [int(side) for side in found.headers["X-Shape"].split(",")]
        return np.frombuffer(found.content, kind).reshape(shape)

    return answer


def test_about_and_listing(ask, images, encoders) -> None:
    about, listing = ask("about.json"), ask("images.json")
    assert [(one["name"], one["step"]) for one in about["encoders"]] == [
        ("mine@4", 4), ("mine@8", 8), ("mine@12", 12), ("mine", None), ("other", None),
    ]  # fmt: skip
    assert (about["first"], about["second"], about["count"]) == (3, 4, 36)
    assert [one["heads"] for one in about["encoders"]] == [2, 2, 2, 2, 3]
    assert [one["prototypes"] for one in about["encoders"]] == [True, True, True, True, False]
    titles = [one["title"] for one in about["columns"]]  # the first encoder's name stands where two are shown
    assert titles == [
        "label",
        "cluster (mine)",
        "prediction by neighbours (mine)",
        "prototype (mine)",
    ]  # no date: all alike
    assert listing["locations"] == open_source(str(images)).paths
    assert listing["names"][0] == "class0/000.png"


@pytest.mark.parametrize("number", [3, 4])
def test_patches_give_the_similarities_of_visuals(ask, session, encoders, images, number) -> None:
    encoder, path = load(encoders[number - 3]), open_source(str(images)).paths[5]
    picture = fit_patches(read_picture(path), encoder.patch_size, 32, path)
    with evaluating(encoder):
        features = patch_features(encoder, picture)
        maps = attention_maps(encoder, picture[None])[0]
    mine = torch.from_numpy(ask(f"patches/{number}/5", np.float16).astype(np.float32))
    assert mine.shape == features.shape
    torch.testing.assert_close(mine @ mine[1, 2], similarity_map(features, features[1, 2]), atol=1e-2, rtol=0)
    np.testing.assert_array_equal(Image.open(io.BytesIO(ask(f"pixels/{number}/5"))), picture.permute(1, 2, 0))
    attention, mask = ask(f"attention/{number}/5", np.uint8), ask(f"mask/{number}/5", np.uint8)
    np.testing.assert_allclose(attention[:-1], 255 * maps / maps.amax((1, 2), keepdim=True), atol=0.51)
    np.testing.assert_array_equal(mask[:-1], mass_mask(maps))
    assert ask(f"pca/{number}/5", np.uint8).shape == (*features.shape[:2], 3)


def test_neighbours_and_predictions(ask, session, encoders, images, options) -> None:
    found = embed(encoders[1], images, cache=options.cache)
    features, labels = torch.from_numpy(found["cls"]), torch.from_numpy(found["labels"])
    similarities, near = nearest(features, features[7:8], 25)
    detail = ask("detail/4/7")
    others = near[0] != 7
    assert [one["image"] for one in detail["neighbours"]] == near[0][others].tolist()
    np.testing.assert_allclose([one["similarity"] for one in detail["neighbours"]], similarities[0][others], atol=1e-4)
    rest = torch.arange(36) != 7
    assert detail["prediction"] == found["classes"][predict(features[rest], labels[rest], features[7:8])[0]]
    assert detail["label"] == "class0" and (detail["height"], detail["width"]) == (32, 32)
    first = ask("columns/prediction", np.int32)  # by the first encoder
    assert [ask(f"detail/3/{n}")["prediction"] for n in range(0, 36, 5)] == found["classes"][first[::5]].tolist()


def test_a_dropped_image_is_looked_at_like_the_others(ask, client, images, session) -> None:
    path = open_source(str(images)).paths[9]
    content = Path(path).read_bytes()
    name = client.post("/api/look", content=content, headers={"origin": "http://127.0.0.1:8123"}).json()["image"]
    dropped, own = ask(f"detail/3/{name}"), ask("detail/3/9")
    assert dropped["neighbours"][0] == {"image": 9, "similarity": pytest.approx(1, abs=1e-3)}
    theirs = {one["image"]: one["similarity"] for one in own["neighbours"]}
    for one in dropped["neighbours"][1:12]:
        assert theirs[one["image"]] == pytest.approx(one["similarity"], abs=1e-2)
    np.testing.assert_array_equal(ask(f"patches/3/{name}", np.float16), ask("patches/3/9", np.float16))
    for _ in range(16):
        session.pictures.drop(content)
    assert client.get(f"/api/images/{name}").status_code == 404


def test_prototypes_are_those_of_the_teacher(ask, session) -> None:
    assigned = session.surveys[3].assigned.wait()
    found = ask("detail/3/4")["prototypes"]
    assert [one["prototype"] for one in found] == assigned.best[4].tolist()
    assert found[0]["probability"] >= found[1]["probability"] > 0
    assert sum(assigned.best[:, 0] == found[0]["prototype"]) == 0 or found[0]["images"]
    np.testing.assert_array_equal(ask("columns/prototype", np.int32), assigned.best[:, 0])


def test_prototypes_of_a_damaged_checkpoint_are_unknown(session, tmp_path) -> None:
    from dinolab.explore.heads import assign, head_of

    run = Path(session.encoders[0].word).parents[1]
    copy = shutil.copytree(run, tmp_path / "copy")
    assert head_of(copy).read() and head_of(tmp_path) is None
    for file in (copy / "checkpoints").glob("*/*.distcp"):
        file.write_bytes(file.read_bytes()[:-9])
    assigned = assign(head_of(copy).read(), *session.surveys[3].features.wait())
    assert assigned.best.tolist() == [[-1]] * 36


def test_maps_are_aligned_and_kept(ask, session, options, encoders) -> None:
    first, second = ask("maps/3/pca", np.float32), ask("maps/4/pca", np.float32)
    for points in (first, second):
        assert points.shape == (36, 2) and abs(points).max() == pytest.approx(1)
    clusters = ask("columns/cluster", np.int32)
    sizes = np.bincount(clusters).tolist()
    assert clusters.shape == (36,) and len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    overlaps = [one["overlap"] for one in ask("changes.json")]
    assert overlaps == sorted(overlaps) and len(overlaps) == 36
    kept = {file.name.split(".")[1] for file in session.surveys[3].folder.glob("*.safetensors")}
    assert {"pca", "neighbours"} <= kept


@pytest.mark.slow
def test_umap_keeps_neighbours_together(monkeypatch) -> None:
    """Few points, and UMAP's code as plain Python: its compilation would take much longer."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    groups = torch.arange(15) % 3
    unit = F.normalize(torch.randn(15, 8) + 4 * torch.randn(3, 8)[groups], dim=1)
    graph, shares = search(unit, None, 4, np.random.default_rng(0)), []
    points = umap_map(unit, graph, pca_map(unit).numpy(), shares.append)
    assert points.shape == (15, 2) and abs(points).max() == pytest.approx(1)
    assert shares == sorted(shares) and shares[-1] == 1
    distance = torch.cdist(torch.from_numpy(points), torch.from_numpy(points)) + 9 * torch.eye(15)
    assert (groups[distance.argmin(1)] == groups).all()


def test_procrustes_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 2))
    turned = reference @ np.array([[0.6, 0.8], [0.8, -0.6]]) * 3 + 5 + rng.normal(size=(50, 2)) * 0.1
    mine = aligned(torch.from_numpy(turned), torch.from_numpy(reference)).numpy()
    _, _, best = procrustes(reference, turned)
    _, _, again = procrustes(reference, mine)
    assert again == pytest.approx(best)
    centred = mine - mine.mean(0), reference - reference.mean(0)
    assert np.corrcoef(centred[0][:, 0], centred[1][:, 0])[0, 1] > 0.99  # it needs no more turning


def test_a_map_by_principal_components_has_their_variance() -> None:
    features = torch.randn(200, 6) * torch.tensor([1, 9, 2, 5, 1, 1.0])
    points = pca_map(features)
    wide = torch.randn(40, 3072) * torch.linspace(4, 1, 40)[:, None]
    left, sizes, _ = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    found = pca_map(wide)
    exact = left[:, :2] * sizes[:2]
    for column in (0, 1):
        assert abs(float(F.cosine_similarity(found[:, column] - found[:, column].mean(), exact[:, column], 0))) > 0.9999
    values = torch.linalg.svdvals(features - features.mean(0))
    spread = (points - points.mean(0)).norm(dim=0)
    assert float(spread[0] / spread[1]) == pytest.approx(float(values[0] / values[1]), rel=1e-4)
    np.testing.assert_allclose(
        place_by_neighbours(np.array([[0.0, 0], [1, 1]]), np.array([[0, 1]]), np.array([[0.9, 0.9]])), [[0.5, 0.5]]
    )


def test_what_takes_long_is_computed_once_beside_the_server() -> None:
    go, made = threading.Event(), []

    def make(report):
        report(0.25)
        go.wait(10)
        made.append(1)
        return 7

    value = Later(make, "counting")
    with pytest.raises(Busy):
        value.get()
    while value.done < 0.25:
        time.sleep(0.01)
    with pytest.raises(Busy, match="counting") as caught:
        value.get()
    assert caught.value.done == 0.25
    go.set()
    assert value.wait() == 7 and value.get() == 7 and made == [1]
    broken = Later(lambda report: json.loads("{"), "reading")
    for ask in (broken.wait, broken.get):
        with pytest.raises(Exception, match="reading: Expecting"):
            ask()
