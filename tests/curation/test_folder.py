"""What a curated set is kept from: other files in its folder, names that it cannot hold, empty and damaged stages, two commands."""

import os
import signal
from contextlib import contextmanager

import cv2
from pyarrow import parquet

from dinolab import cli
from dinolab.curation.folder import writing
from dinolab.data.tables import write_table
from dinolab.features.store import Store
from tests.curation.conftest import curate, picture
from tests.curation.test_curate import contents, decisions


def test_a_stage_that_would_leave_nothing_changes_nothing(heap, tmp_path, capsys):
    out, few = tmp_path / "set", tmp_path / "few"
    few.mkdir()
    for seed in (7, 8, 9):
        cv2.imwrite(str(few / f"{seed}.png"), picture(seed))
    by_clusters = ["retrieve", out, f"curated={few}", "by=clusters", "clusters=1"]
    curate("embed", out, f"data={heap}")
    assert curate(*by_clusters, "at_least=3") == 0
    curate("sample", out, "size=9")
    curate("embed", tmp_path / "set" / "against", f"data={heap}")  # so that what is compared with is there already
    before = {name: data for name, data in contents(out).items() if not name.startswith("parts")}
    capsys.readouterr()
    for words, way_out in (
        (by_clusters, "smaller at_least="),
        (["dedup", out, f"against={heap}"], "threshold_against="),
    ):
        assert curate(*words) == 2
        error = capsys.readouterr().err
        assert f"{out}: {words[0]} would leave no image in, and has changed nothing" in error
        assert way_out in error and error.count("\n") == 1
        assert {name: data for name, data in contents(out).items() if not name.startswith("parts")} == before


def test_a_damaged_manifest_is_told_and_made_again(heap, tmp_path, capsys):
    out = tmp_path / "set"
    curate("embed", out, f"data={heap}")
    curate("dedup", out)
    before = contents(out)
    for text in ("[]", "{", '{"figures": 3}'):
        (out / "dedup.json").write_text(text)
        capsys.readouterr()
        for words in (["explain", out, "01.png"], ["retrieve", out, f"curated={heap}"], ["sample", out, "size=3"]):
            assert curate(*words) == 2
            error = capsys.readouterr().err
            assert f"{out}/dedup.json: " in error and "give `dinolab curate dedup` again" in error
        assert curate("dedup", out) == 0
        assert {name: data for name, data in contents(out).items() if name in before} == before


def test_damaged_decisions_are_told(heap, tmp_path, capsys):
    out = tmp_path / "set"
    curate("embed", out, f"data={heap}")
    curate("dedup", out)
    for name, words, change in (
        ("dedup", ["explain", out, "01.png"], lambda table: table.slice(0, 5)),
        ("decisions", ["embed", tmp_path / "other", f"data={out}"], with_zero),
    ):
        file = out / f"{name}.parquet"
        write_table(file, change(parquet.read_table(file)))
        capsys.readouterr()
        assert curate(*words) == 2
        assert f"{file}: damaged" in capsys.readouterr().err


def with_zero(table):
    """The table with a location that no system takes."""
    names = ["a\0b", *table["location"].to_pylist()[1:]]
    return table.set_column(table.schema.get_field_index("location"), "location", [names])


def test_a_set_does_not_lie_among_other_files(heap, tmp_path, capsys):
    out, file = tmp_path / "set", heap / "01.png"
    (tmp_path / "link").symlink_to(heap)
    before = contents(tmp_path)
    for place in (heap, tmp_path / "link", tmp_path):
        assert curate("embed", place, f"data={heap}") == 2
        assert f"{place}: no curated set, and not empty" in capsys.readouterr().err
    (tmp_path / "a.py").touch()
    assert cli.main(["curate", "embed", str(out), f"data={heap}", f"encoder={tmp_path / 'a.py'}"]) == 2
    assert "a.py: holds no weights of an encoder; name the folder of a dinolab run, a file" in capsys.readouterr().err
    (tmp_path / "a.py").unlink()
    for place in (file, file / "set"):
        assert curate("embed", place, f"data={heap}") == 2
        assert f"{place}: a file, or below one" in capsys.readouterr().err
    assert contents(tmp_path) == before
    out.mkdir()
    (out / ".hidden").touch()
    assert curate("embed", out, f"data={heap}") == 0
    before = contents(out)
    (tmp_path / "same").symlink_to(out)
    for words in (("embed", "data"), ("dedup", "against"), ("retrieve", "curated")):
        assert curate(words[0], out, f"{words[1]}={tmp_path / 'same'}") == 2
        assert f"{words[1]}={tmp_path / 'same'}: this is the set itself" in capsys.readouterr().err
    assert contents(out) == before


def test_names_that_a_set_cannot_hold_are_listed_and_the_rest_goes_on(heap, tmp_path, capsys, caplog):
    out = tmp_path / "set"
    names = [b"caf\xe9.png", b"two\nlines.png", b"broken\xe9.png"]
    for name in names[:2]:
        (heap / os.fsdecode(name)).write_bytes((heap / "01.png").read_bytes())
    (heap / os.fsdecode(names[2])).write_bytes(b"no image")
    assert curate("embed", out, f"data={heap}") == 0
    assert "34 images, 3072 features each, 4 cannot be read" in capsys.readouterr().out
    found = decisions(out)
    assert found["caf\\udce9.png"]["reason"].endswith("its name is not in UTF-8; rename it")
    assert found["two\\nlines.png"]["reason"].endswith("its name holds a line break; rename it")
    assert found["broken\\udce9.png"]["reason"].endswith("its name is not in UTF-8; rename it")
    assert "4 of 34 images cannot be read and are out" in caplog.text
    assert len((out / "in.txt").read_text().splitlines()) == 30
    before = contents(out)
    assert curate("embed", out, f"data={heap}") == 0
    assert contents(out) == before
    for name in names:
        (heap / os.fsdecode(name)).unlink()
    curate("embed", out, f"data={heap}")
    assert len(Store(out)) == 31


@contextmanager
def writer(out):
    """Inside the block, another process writes to the set."""
    reader, ready = os.pipe()
    if not (process := os.fork()):
        try:
            with writing(out):
                os.write(ready, b"!")
                signal.pause()
        finally:
            os._exit(1)
    os.read(reader, 1)
    yield
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_one_command_writes_at_a_time(heap, tmp_path, capsys, monkeypatch):
    out = tmp_path / "set"
    curate("embed", out, f"data={heap}")
    curate("dedup", out)
    (out / "review.csv").write_text("image,decision\n01.png,drop\n")
    before = contents(out)
    commands = [
        ("embed", f"data={heap}"), ("dedup", "threshold=0.9"), ("retrieve", f"curated={heap}"), ("sample", "size=3"),
        ("review",), ("audit",),
    ]  # fmt: skip
    with writer(out):
        for name, *words in commands:
            capsys.readouterr()
            assert curate(name, out, *words) == 2
            error = capsys.readouterr().err
            assert f"{out}: another process is writing to it" in error
            assert error.count("\n") == 1
        assert contents(out) == before
        assert curate("explain", out, "01.png") == 0
        assert curate("explain", out, "") == 2
        assert "the name of the image is empty" in capsys.readouterr().err
        assert curate("plan", out) == 0
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        with writing(out):  # the first task of the array holds the lock, and this is the second one
            pass
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert curate("review", out) == 0


def test_what_a_killed_audit_left_is_removed(heap, tmp_path):
    out = tmp_path / "set"
    curate("embed", out, f"data={heap}")
    left = out / "parts" / "audit" / "rows"
    left.mkdir(parents=True)
    (left / "000000.safetensors").write_bytes(b"cut short")
    assert curate("audit", out) == 0
    assert not (out / "parts" / "audit").exists()
