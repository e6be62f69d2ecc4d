"""Curated sets with their findings, frames of videos, exported pages, and the command line."""

import base64
import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinolab import cli
from dinolab.curation.names import Names
from dinolab.evals.evaluate import evaluate
from dinolab.explore.collection import open_collection
from dinolab.explore.options import ExploreOptions
from tests.curation.conftest import curate, heap  # noqa: F401
from tests.explore.conftest import NASTY

pytest.importorskip("starlette")


@pytest.fixture
def curated(heap, tmp_path, capsys):  # noqa: F811
    """A session about a curated set that was deduplicated and audited."""
    from dinolab.explore.session import Session

    out = tmp_path / "set"
    for words in (["embed", out, f"data={heap}"], ["dedup", out, "threshold=0.95"], ["audit", out]):
        assert curate(*words) == 0
    return Session(["pixels"], ExploreOptions(data=str(out), device="cpu", workers=0))


def test_findings_of_a_curated_set_and_decisions_that_curate_takes(curated, capsys) -> None:
    pytest.importorskip("pyarrow")
    store = curated.images.store
    assert len(curated.images) == len(store.readable) > int(curated.columns["in"].array().size - 1) / 2
    assert not curated.about()["encoders"][0]["patches"]
    names, found = curated.images.names, curated.findings
    copies = {(names[one["image"]], names[one["other"]]) for one in found if one["kind"] == "copy"}
    assert ("00_same.png", "00.png") in copies or ("00.png", "00_same.png") in copies
    assert any(one["words"] == "Left out by deduplication: same bytes as 00.png." for one in found)
    left_out = {one["image"] for one in found if one["kind"] == "copy"}
    assert left_out == set(np.flatnonzero(curated.columns["in"].array()).tolist())
    assert {one["kind"] for one in found} > {"copy"}
    back, gone = next(iter(left_out)), names.index("20.png")
    saved = curated.reviews.save(
        [{"image": back, "decision": "keep", "kind": "copy"}, {"image": gone, "decision": "drop"}]
    )
    assert saved["file"] == str(store.folder / "review.csv")
    assert curate("review", store.folder) == 0
    assert "20.png" not in (store.folder / "in.txt").read_text()
    assert curated.images.locations[back] in (store.folder / "in.txt").read_text().splitlines()


def test_layers_that_evaluations_have_trained_predict_all_images(encoders, images, options, tmp_path) -> None:
    from dinolab.explore.session import Session

    run, other = tmp_path / "run", tmp_path / "other"
    for source, copy in zip(encoders, (run, other)):
        copy.mkdir()
        for name in ("model.json", "model.safetensors"):
            shutil.copy(Path(source) / name, copy)
    evaluate("logreg", run, images, images, run / "eval" / "logreg", cache=options.cache)
    shutil.copytree(run / "eval", other / "eval")  # a layer on other weights, which is left aside
    (run / "eval" / "damaged").mkdir()
    (run / "eval" / "damaged" / "layer.safetensors").write_bytes(b"no layer")
    assert not any(name.startswith("layer-") for name in Session([str(other)], options).columns)
    session = Session([str(run)], options)
    (column,) = [one for name, one in session.columns.items() if name.startswith("layer-")]
    assert (column.id, column.values) == ("layer-logreg", ["class0", "class1", "class2"])
    assert session.detail(0, 7)["layers"] == {}
    session.surveys[0].settle()
    with (run / "eval" / "logreg" / "predictions.csv").open(newline="") as file:
        expected = {row["filename"]: row["predicted"] for row in csv.DictReader(file)}
    predicted = [column.values[n] for n in column.array()]
    assert predicted == [expected[name] for name in session.images.names]
    assert session.detail(0, 7)["layers"] == {"logreg": predicted[7]}


def test_frames_of_a_video_follow_each_other(tmp_path) -> None:
    for clip in ("a", "b"):
        for n in range(10):
            (tmp_path / clip).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / clip / f"{n}.png"), np.full((8, 8, 3), 20 * n, np.uint8))
    images = open_collection(ExploreOptions(data=f"clips:{tmp_path}"))
    assert images.groups.tolist() == [0] * 8 + [1] * 8
    assert images.beside(0) == {"previous": None, "next": 1}
    names, kept = Names(images.source.paths), np.array([3, 9])  # what curation takes for an image
    assert [names.row(name) for name in images.part(kept).short] == kept.tolist()
    assert images.beside(8) == {"previous": None, "next": 9} and images.beside(15) == {"previous": 14, "next": None}


def test_above_its_limit_umap_places_images_by_their_neighbours(session, monkeypatch) -> None:
    from dinolab.explore import umap_map

    survey, shares = session.surveys[4], []
    monkeypatch.setattr(umap_map, "embedded", lambda graph, start, report: 3 * start + len(graph.indices))
    start = survey.pca.wait()
    found = umap_map.umap_map(survey.features.wait().unit, survey.graph.wait(), start, shares.append, most=20)
    assert found.shape == (36, 2) and abs(found).max() == pytest.approx(1)
    whole = umap_map.umap_map(survey.features.wait().unit, survey.graph.wait(), start, shares.append)
    np.testing.assert_allclose(whole, start, atol=1e-5)


def test_an_export_holds_all_it_needs(encoders, options, tmp_path, monkeypatch, capsys) -> None:
    from dinolab.explore import umap_map

    monkeypatch.setattr(umap_map, "embedded", lambda graph, start, report: start)
    out = tmp_path / "page"
    words = [*encoders, f"data={options.data}", f"cache={options.cache}", "device=cpu", "workers=0", "sample=12"]
    assert cli.main(["explore", *words, f"export={out}", "megabytes=1"]) == 0
    assert "12 images" in capsys.readouterr().out
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert size < 1e6
    text = (out / "data.js").read_text()
    answers = json.loads(re.fullmatch(r"window\.EXPORTED = (.*);\n", text)[1])
    assert options.data not in text  # no path of this machine
    about, listing = answers["api/about.json"], answers["api/images.json"]
    assert (about["exported"], about["count"], about["first"], about["second"]) == (True, 12, 0, 1)
    assert len(list((out / "images").iterdir())) == 12 == len(listing["names"])
    for path in ["atlas/0", "changes.json", "findings.json", *(f"columns/{one['id']}" for one in about["columns"])]:
        assert f"api/{path}" in answers
    for path in ("detail", "patches", "attention", "mask", "pca"):
        assert all(f"api/{path}/{place}/{n}" in answers for place in (0, 1) for n in range(12))
    assert {one["image"] for one in answers["api/detail/0/3"]["neighbours"]} == set(range(12)) - {3}
    one = answers["api/patches/0/3"]
    patches = np.frombuffer(base64.b64decode(one["data"]), np.float16).reshape(one["shape"]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-2)  # all directions fit
    page = (out / "index.html").read_text()
    assert '<script defer src="data.js"></script>' in page
    for address in re.findall(r'(?:src|href)="([^"#][^"]*)"', page):
        assert address.startswith("data:") or (out / address).is_file()
    assert cli.main(["explore", *words, f"export={tmp_path}"]) == 2 and "holds other files" in capsys.readouterr().err
    assert cli.main(["explore", *words, f"export={out}", "megabytes=1", "sample=1"]) == 0  # an earlier page is replaced
    assert [file.name for file in (out / "images").iterdir()] == ["0.jpg"]


def test_a_port_that_is_taken_is_left_to_others(caplog) -> None:
    from dinolab.explore.server import listen

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port) as found:
            assert port < found.getsockname()[1] < port + 20
            assert f"port {port} is taken, so the explorer is at port {found.getsockname()[1]}" in caplog.text


def test_the_command_line_and_python(encoders, options, images, monkeypatch, capsys) -> None:
    import httpx

    import dinolab.explore as explorer

    for words, problem in (
        ([], "RUN_OR_MODEL is missing"),
        (["starter"], "data is not set: name the images to look at, such as data=photos"),
        ([*encoders, "starter", "data=x"], "no such file"),
        (["nope", f"data={images}"], "dinolab: nope: no model.json there"),
        (["nope", f"data={images}", "host=no.such.host.example"], "host=no.such.host.example"),  # before features
        (["nope", f"data={images}", "host=192.0.2.1"], "host=192.0.2.1 port=8651: cannot be used ("),
    ):
        assert cli.main(["explore", *words, f"cache={options.cache}", "open=false", "device=cpu", "workers=0"]) == 2
        found = capsys.readouterr().err
        assert problem in found and "attempting" not in found
    server = explorer.explore(encoders[1], images, cache=options.cache)
    try:
        with httpx.Client(follow_redirects=True) as client:
            for _ in range(100):
                try:
                    page = client.get(server.address)
                    break
                except httpx.ConnectError:
                    pass
            assert page.status_code == 200 and "dinolab" in page.text and "token" not in str(page.url)
            assert f"class1/{NASTY}" in client.get(str(page.url) + "api/images.json").json()["names"]
    finally:
        server.close()
    monkeypatch.setattr(explorer, "find_spec", lambda name: None if name == "umap" else 1)
    assert cli.main(["explore", encoders[0], f"data={images}"]) == 2
    assert "needs umap: pip install 'dinolab[explore]'" in capsys.readouterr().err
