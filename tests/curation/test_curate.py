"""The stages of curation on a small heap: what each keeps, what it costs to repeat, and what it refuses."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch.nn.functional as F

from dinolab import cli
from dinolab.curation import embed, leaks
from dinolab.curation.decisions import lineage, read_verdicts
from dinolab.data.sources import open_source
from dinolab.features.store import Store
from tests.curation.conftest import CHANGES, curate, picture
from tests.pictures import TINY, fit_words


def decisions(out):
    """The rows of decisions.csv by the name of the file."""
    with (out / "decisions.csv").open() as file:
        return {row["filename"].rsplit("/", 1)[1]: row for row in csv.DictReader(file)}


def names_in(out):
    return {path.rsplit("/", 1)[1] for path in open_source(str(out)).paths}


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_copies_go_and_the_largest_stays(heap, tmp_path, capsys):
    out = tmp_path / "set"
    assert curate("embed", out, f"data={heap}") == 0
    assert "31 images, 3072 features each, 1 cannot be read" in capsys.readouterr().out
    assert names_in(out) == {path.name for path in heap.iterdir()} - {"broken.jpg"}
    assert curate("dedup", out, "threshold=0.6") == 0
    assert "24 of 30" not in capsys.readouterr().out  # the mirrored copy is another image to raw pixels
    found = decisions(out)
    gone = {name for name, row in found.items() if row["decision"] == "out"}
    assert gone == {*(f"{seed:02d}_{name}" for seed, name in enumerate(CHANGES)), "00_same.png", "broken.jpg"}
    assert found["00.png"]["decision"] == "in"  # of the same size as its copy: the first
    assert found["00_same.png"]["reason"] == "same bytes as"
    assert found["03_cropped.png"]["reason"].startswith("near-copy")
    assert float(found["03_cropped.png"]["similarity"]) > 0.6
    assert found["03_cropped.png"]["of"].endswith("/03.png")
    assert "not an image" in found["broken.jpg"]["reason"]
    assert curate("explain", out, "03_cropped.png") == 0
    assert "dedup: out: near-copy of" in capsys.readouterr().out
    assert curate("explain", out, "nothing.png") == 2
    assert {path.name for path in heap.iterdir()} == set(found)  # nothing is deleted


def test_whatever_touches_a_test_image_goes(heap, tmp_path, capsys):
    test, out = tmp_path / "test", tmp_path / "set"
    test.mkdir()
    shutil.copy(heap / "02.png", test / "a.png")
    cv2.imwrite(str(test / "b.png"), picture(99))
    cv2.imwrite(str(test / "c.png"), CHANGES["cropped.png"](picture(6)))
    curate("embed", out, f"data={heap}")
    capsys.readouterr()
    assert curate("dedup", out, f"against={test}", "threshold_against=0.02", "most=2") == 0
    assert "of the images; if they are not like test images" in capsys.readouterr().out
    assert curate("dedup", out, f"against={test}") == 0
    said = capsys.readouterr().out
    assert "out: 2 equal to test images, 1 near them, 0 in groups with one of these" in said
    assert "of the images; if they" not in said  # not many
    found = decisions(out)
    reasons = [found[name]["reason"] for name in ("02.png", "02_bright.png", "06.png")]
    assert reasons == [leaks.BYTES, leaks.HASH, leaks.NEAR]
    assert found["02_bright.png"]["of"].endswith("/a.png")
    assert float(found["02.png"]["similarity"]) == pytest.approx(1, abs=1e-3)
    assert float(found["06.png"]["similarity"]) > 0.45
    assert names_in(out) == {f"{seed:02d}.png" for seed in range(24) if seed not in (2, 6)} | {"05_mirrored.png"}


def test_a_copy_that_is_near_a_test_image_takes_along_the_one_that_is_kept(heap, tmp_path, capsys):
    """A chain of pictures leads from one to another, whose largest copy is kept; the test set has the other end."""
    test, more, out = tmp_path / "test", tmp_path / "more", tmp_path / "set"
    test.mkdir()
    more.mkdir()
    cv2.imwrite(str(test / "a.jpg"), picture(2))
    for step in range(1, 30):
        blend = cv2.addWeighted(picture(2), 1 - step / 30, picture(3), step / 30, 0)
        cv2.imwrite(str(more / f"blend{step:02d}.png"), blend)
    cv2.imwrite(str(more / "largest.png"), picture(3, 256))
    for source in (heap, more):
        curate("embed", out, f"data={source}")
    assert curate("dedup", out) == 0
    assert "largest.png" in names_in(out) and not names_in(out) & {"02.png", "03.png"}
    assert curate("dedup", out, f"against={test}") == 0
    found = decisions(out)
    assert found["largest.png"]["reason"] == leaks.GROUP
    assert found["largest.png"]["of"].endswith("/a.jpg")
    assert float(found["largest.png"]["similarity"]) < 0.45
    assert found["02.png"]["reason"] == leaks.HASH
    assert found["blend29.png"]["of"].endswith("/largest.png")  # out as its copy, as without test images
    assert names_in(out) == {f"{seed:02d}.png" for seed in range(24) if seed not in (2, 3)} | {"05_mirrored.png"}
    capsys.readouterr()
    curate("explain", out, "blend29.png")
    assert f"largest.png is out, too: {leaks.GROUP}" in capsys.readouterr().out
    curate("explain", out, "largest.png")
    named = capsys.readouterr().out.splitlines()[-1]
    assert "out because of it:" in named and "blend" in named and "more" in named


def test_cutting_chains_spares_no_image_that_is_near_a_test_image_itself(heap, tmp_path):
    test, out = tmp_path / "test", tmp_path / "set"
    test.mkdir()
    for seed in (50, 51):
        cv2.imwrite(str(test / f"{seed}.png"), picture(seed))
    curate("embed", out, f"data={heap}")
    words = ("space=raw", "threshold=1", "hash_bits=-1", f"against={test}")
    store, tests = Store(out), Store(out / "against")
    assert curate("dedup", out, *words) == 0
    near = (
        F.normalize(store.vectors(store.readable).float(), dim=1)
        @ F.normalize(tests.vectors(tests.readable).float(), dim=1).T
    )
    least = float(near.max(1).values.median())
    assert curate("dedup", out, *words, f"threshold_against={least}", "most=2") == 0
    stays = read_verdicts(store, "dedup").kept[store.readable]
    assert stays.any() and not (stays & (near.max(1).values.numpy() > least + 1e-3)).any()


def test_curated_images_bring_in_their_neighbours_and_a_sample_is_drawn(heap, tmp_path, capsys, caplog):
    curated, out = tmp_path / "curated", tmp_path / "set"
    curated.mkdir()
    for seed in (7, 8):
        noise = np.random.default_rng(seed).normal(0, 20, (64, 64, 3))
        cv2.imwrite(str(curated / f"{seed}.png"), (picture(seed) + noise).clip(0, 255))
    assert curate("all", out, f"data={heap}", f"curated={curated}", "per_image=1") == 0
    assert names_in(out) == {"07.png", "08.png"}
    assert decisions(out)["07.png"]["reason"] == "number 1 of the nearest of the curated image"
    curate("retrieve", out, f"curated={curated}", "per_image=6")
    assert 6 <= len(names_in(out)) <= 12
    assert curate("sample", out, "size=5", "levels=2") == 0
    assert len(names_in(out)) == 5
    chain = lineage(open_source(str(out)))
    assert [one.get("stage", "embed") for one in chain] == ["embed", "dedup", "retrieve", "sample"]
    assert [one["parent"] for one in chain[1:]] == [one["sha256"] for one in chain[:-1]]
    capsys.readouterr()
    assert curate("sample", out, "size=500") == 2
    assert "are left to draw from" in capsys.readouterr().err
    assert (
        curate("retrieve", out, f"curated={curated}", "by=clusters", "clusters=4", "at_least=1", "per_cluster=2") == 0
    )
    assert "what sample chose from has changed" in caplog.text
    assert 1 <= len(names_in(out)) <= 4
    assert not (out / "sample.json").exists()


def test_resumed_embedding_gives_the_same_files(heap, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "IMAGES", 8)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    curate("embed", whole, f"data={heap}")
    write, left = embed.Shard.write, [2]

    def stop(self, vectors, columns):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, vectors, columns)

    monkeypatch.setattr(embed.Shard, "write", stop)
    assert curate("embed", broken, f"data={heap}") == 130
    assert curate("dedup", broken) == 2  # it is not whole yet
    monkeypatch.setattr(embed.Shard, "write", write)
    assert curate("embed", broken, f"data={heap}") == 0
    assert contents(broken) == contents(whole)
    assert len(contents(whole)) == 2 * 4 + 5  # manifest, decisions twice, list, lock


def test_only_what_changed_is_embedded_again(heap, tmp_path, monkeypatch):
    out = tmp_path / "set"
    curate("embed", out, f"data={heap}")
    curate("dedup", out)
    before = contents(out)
    embedded, drop_outdated = [], embed.drop_outdated
    usual = embed.Embedder.embed
    monkeypatch.setattr(
        embed.Embedder,
        "embed",
        lambda self, source, *range: embedded.extend(source.paths) or usual(self, source, *range),
    )
    curate("embed", out, f"data={heap}")
    assert embedded == []
    assert contents(out) == before  # the stage that followed still holds
    monkeypatch.setattr(embed, "drop_outdated", interrupt)
    assert curate("embed", out, f"data={heap}") == 130
    assert curate("dedup", out) == 2  # rows and decisions might not belong together
    monkeypatch.setattr(embed, "drop_outdated", drop_outdated)
    curate("embed", out, f"data={heap}")
    assert contents(out) == before
    cv2.imwrite(str(heap / "new.png"), picture(77))
    cv2.imwrite(str(heap / "09.png"), picture(78, side=80))
    (heap / "10.png").unlink()
    curate("embed", out, f"data={heap}")
    assert sorted(path.rsplit("/", 1)[1] for path in embedded) == ["09.png", "new.png"]
    assert not (out / "dedup.json").exists()
    rows = Store(out).rows
    sizes = {path.rsplit("/", 1)[1]: width for path, width in zip(rows["location"], rows["width"])}
    assert sizes["09.png"] == 80
    assert len(sizes) == len(rows["location"]) == 31
    other = shutil.copytree(heap, tmp_path / "other")
    curate("embed", out, f"data={other}")
    assert len(Store(out)) == 62


def test_what_another_set_holds_is_not_embedded_again(heap, tmp_path, monkeypatch, caplog):
    first, out, plain = (tmp_path / name for name in ("first", "out", "plain"))
    test = shutil.copytree(heap, tmp_path / "test")
    curate("embed", first, f"data={test}")
    curate("dedup", first)
    curate("embed", out, f"data={heap}")
    embedded, usual = [], embed.Embedder.embed

    def count(self, source, first, stop):
        embedded.extend(source.paths[first:stop])
        return usual(self, source, first, stop)

    monkeypatch.setattr(embed.Embedder, "embed", count)
    assert curate("dedup", out, f"against={first}") == 2  # nothing would be left
    assert curate("retrieve", out, f"curated={first}") == 0
    assert curate("embed", tmp_path / "again", f"data={first}") == 0
    assert embedded == []
    kept, rows = Store(tmp_path / "again"), Store(first)
    order = [rows.rows["location"].tolist().index(path) for path in kept.rows["location"]]
    for name in ("location", "stamp", "date", "problem", "digest", "height", "width", "bytes", "hash"):
        assert kept.rows[name].tolist() == rows.rows[name][order].tolist()
    assert (kept.vectors(np.arange(len(kept))) == rows.vectors(np.arange(len(rows)))[order]).all()
    cv2.imwrite(str(test / "03.png"), picture(70))
    curate("embed", tmp_path / "again", f"data={first}")
    assert [path.rsplit("/", 1)[1] for path in embedded] == ["03.png"]
    flip(first / "shards" / "000000.npy")
    embedded.clear()
    curate("embed", plain, f"data={first}")
    assert len(embedded) == len(kept)
    assert "its checksum has changed" in caplog.text


@pytest.mark.parametrize(
    ("damage", "verb", "message"),
    [
        (lambda out: cut(out / "shards/000000.npy"), ["dedup"], "shards/000000.npy: missing or damaged"),
        (lambda out: cut(out / "shards/000000.parquet"), ["dedup"], "shards/000000.parquet: missing or damaged"),
        (lambda out: flip(out / "shards/000000.npy"), ["dedup"], "its checksum has changed"),
        (lambda out: (out / "curation.json").unlink(), ["dedup"], "no embeddings there"),
        (lambda out: swap(out / "curation.json"), ["embed", "data={heap}"], "the weights of encoder=pixels are others"),
        (lambda out: swap(out / "curation.json"), ["dedup", "against={heap}"], "have changed since its images were"),
        (lambda out: None, ["embed", "data={heap}", "size=64"], "and not at 64 x 64"),
        (lambda out: None, ["retrieve", "curated={empty}"], "no images"),
        (lambda out: None, ["dedup", "threshold=2"], "threshold=2.0: out of range"),
    ],
)
def test_one_line_for_what_cannot_be_done(heap, tmp_path, capsys, damage, verb, message):
    out, empty = tmp_path / "set", tmp_path / "empty"
    empty.mkdir()
    curate("embed", out, f"data={heap}")
    damage(out)
    capsys.readouterr()
    words = [word.format(heap=heap, empty=empty) for word in verb]
    assert curate(words[0], out, *words[1:]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def interrupt(*_):
    raise KeyboardInterrupt


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)


def swap(file):
    text = file.read_text()
    at = text.index('"sha256": "') + len('"sha256": "')
    file.write_text(f"{text[:at]}{'0' * 8}{text[at + 8 :]}")


def test_a_plan_forecasts_each_stage(heap, tmp_path, capsys):
    out = tmp_path / "set"
    assert curate("plan", out, f"data={heap}", "encoder=pixels", "images=1000000", "curated=100") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1,000,000 images, 3072 features each")
    assert [line.split()[0] for line in lines[2:-1]] == ["embed", "dedup", "retrieve", "sample"]
    assert "6.4 GB" in lines[2]  # 2 bytes for each feature, and the facts
    assert not out.exists()
    assert curate("plan", out) == 2  # there is neither a set nor data
    curate("embed", out, f"data={heap}")
    capsys.readouterr()
    assert curate("plan", out) == 0
    assert capsys.readouterr().out.startswith("31 images, 3072 features each")


def test_a_chain_that_is_too_long_is_cut(heap, tmp_path, caplog):
    chain, out = tmp_path / "chain", tmp_path / "set"
    chain.mkdir()
    for step in range(12):  # from one image to another, each like the next
        cv2.imwrite(
            str(chain / f"{step:02d}.png"), cv2.addWeighted(picture(0), 1 - step / 11, picture(1), step / 11, 0)
        )
    curate("embed", out, f"data={chain}")
    curate("dedup", out, "hash_bits=-1", "threshold=0.8")
    assert len(names_in(out)) == 1
    assert "joined by a chain of near-copies with" in {row["reason"] for row in decisions(out).values()}
    curate("dedup", out, "hash_bits=-1", "threshold=0.8", "most=5")
    assert "12 images hang together in 1 chain " in caplog.text
    assert len(names_in(out)) > 1


def test_a_run_says_how_its_images_were_chosen(heap, tmp_path):
    out, run = tmp_path / "set", tmp_path / "run"
    curate("embed", out, f"data={heap}")
    curate("dedup", out)
    words = fit_words([*TINY, "method=dino", "eval.every=0 steps", "optim.length=1 steps", "optim.warmup=0 steps"])
    assert cli.main(["train", *words, f"data.path={out}", f"run.dir={run}"]) == 0
    chain = lineage(open_source(str(out)))
    assert json.loads((run / "environment.json").read_text())["curation"] == chain
    assert json.loads((run / "model.json").read_text())["info"]["curation"] == chain
    assert json.loads((run / "environment.json").read_text())["images"] == 25
    assert cli.main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert chain[-1]["sha256"] in page
    assert chain[0]["encoder"]["sha256"] in page
