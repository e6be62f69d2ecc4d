"""The commands of `dinolab curate` as functions: they do the same, and check their options alike."""

import inspect

import pytest

import dinolab
from dinolab import curate
from dinolab.cli.curate import members
from dinolab.errors import UserError
from dinolab.fields import options
from tests.curation.conftest import curate as command
from tests.curation.test_curate import contents


def test_there_is_a_function_for_each_command():
    assert {*curate.__all__} == {*members()} - {"all"}
    assert dinolab.curate is curate
    for name, verb in members().items():
        if name == "all":
            continue
        taken = inspect.signature(getattr(curate, name)).parameters
        required = (
            {name for name, f in options(verb.schemas[0]) if f.metadata.get("required")} if verb.schemas else set()
        )
        assert required <= {*taken}
        assert next(iter(taken)) == "out"


def test_functions_do_what_the_commands_do(heap, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    store = curate.embed(ours, heap, "pixels")
    assert store.manifest["images"] == 31 and store.vectors(store.readable).shape == (30, 3072)
    found = curate.dedup(ours, threshold=0.6, search_device="cpu", against=None)
    assert found["images"] == 30 and found["bytes"] == 1
    assert curate.retrieve(ours, heap, per_image=2, search_device="cpu")["kept"] == found["kept"]
    assert curate.sample(ours, 9, levels=2, search_device="cpu")["kept"] == 9
    (ours / "review.csv").write_text("image,decision\n03_cropped.png,keep\n")
    assert curate.review(ours)["brought_back"] == 1
    assert curate.audit(ours, search_device="cpu").images == 10 and (ours / "audit" / "audit.html").is_file()
    assert "review: kept by a person" in curate.explain(ours, "03_cropped.png")
    assert curate.export(ours, tmp_path / "exported")["images"] == 10
    assert curate.plan(ours, search_device="cpu")[0].startswith("31 images")

    command("embed", theirs, f"data={heap}")
    command("dedup", theirs)
    command("retrieve", theirs, f"curated={heap}", "per_image=2")
    command("sample", theirs, "size=9", "levels=2")
    (theirs / "review.csv").write_text("image,decision\n03_cropped.png,keep\n")
    command("review", theirs)
    assert (ours / "decisions.csv").read_bytes() == (theirs / "decisions.csv").read_bytes()
    assert (ours / "sample.json").read_bytes() == (theirs / "sample.json").read_bytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: curate.dedup(out, threshold=2), "threshold=2.0: out of range"),
        (lambda out: curate.dedup(out, treshold=0.5), "no option treshold; did you mean threshold"),
        (lambda out: curate.dedup(out, keep="best"), "keep=best: one of largest, first, newest"),
        (lambda out: curate.retrieve(out, "", by="clusters"), "curated is not set"),
        (lambda out: curate.sample(out, -1), "size=-1: out of range"),
        (lambda out: curate.audit(out, shown="many"), "shown: takes"),
        (lambda out: curate.explain(out / "other", 3), "other: no embeddings there"),
        (lambda out: curate.dedup(out / "other"), "other: no embeddings there"),
    ],
)
def test_options_are_checked_as_on_the_command_line(heap, tmp_path, call, message):
    out = tmp_path / "set"
    curate.embed(out, heap, "pixels")
    before = contents(out)
    with pytest.raises(UserError, match=message):
        call(out)
    assert contents(out) == before
