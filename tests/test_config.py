"""Odd words and YAML files: each is read, or ends in one line that names it; and nothing in them is looked up elsewhere."""

import time
from pathlib import Path

import pytest

from dinolab.errors import UserError
from dinolab.plain_yaml import read_yaml, write_yaml
from dinolab.recipes import load_config

DIGITS = "9" * 5000
ODD = [
    "", "[]", "{}", "???", "null", "~", "[[[[1]]]]", "[" * 3000, "{" * 3000, "!!int x", "!!int ''", "!!float z", "!!binary =",
    "!!python/object/apply:os.system [ls]", "!!timestamp 2001-99-99", "{1: 2}", "{[1]: 2}", "&a [1, *a]", "*a", "<<", "a: b: c",
    "9" * 309, DIGITS, f"-{DIGITS}", f"1e{DIGITS}", "1e999", ".inf", ".nan", "nan", "-1", "0x" + "f" * 400, "1:2:3", "2001-01-01",
    "${", "${oc.env:HOME}", "${optim.lr}", "%", "\t", "\x00", "\x1b[1m", "a, b", "[1, 2", "'", '"', "- 1", "? 1", "|", ">", "@", "`",
    "true",
]  # fmt: skip
KEYS = [
    "optim.lr",
    "optim.batch_size",
    "optim.length",
    "views.flip",
    "views.global_scale",
    "model.size",
    "run.compile",
    "data.path",
]


def refusal(recipe: Path | None, words: list[str]) -> str:
    """The message if the configuration is refused, else empty."""
    try:
        load_config(recipe, words)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("value", ODD, ids=[f"{n}" for n in range(len(ODD))])
def test_odd_values_are_taken_or_named(value: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for key in KEYS:
        section, name = key.split(".")
        recipe.write_text(f"{section}:\n  {name}: {value}\n")
        for config, words, named in ((None, [f"{key}={value}"], name), (recipe, [], "")):
            message = refusal(config, words)
            assert not message or (named in message and len(message) < 1000)


@pytest.mark.parametrize("content", ODD, ids=[f"{n}" for n in range(len(ODD))])
def test_odd_files_are_taken_or_named(content: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(content)
    message = refusal(recipe, [])
    assert not message or message.startswith(str(recipe))


def test_nothing_is_looked_up_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "swordfish")
    text = "${oc.env:SECRET_TOKEN}"
    (tmp_path / "recipe.yaml").write_text(f"data:\n  path: ftp://host/{text}\n")
    cfg = load_config(tmp_path / "recipe.yaml", [f"data.images={text}", f"run.dir={tmp_path}"])
    assert cfg.data.path == f"ftp://host/{text}" and cfg.data.images == text
    write_yaml({"path": text}, tmp_path / "written.yaml")
    assert read_yaml(tmp_path / "written.yaml") == {"path": text}


def test_a_bad_word_is_not_blamed_on_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim:\n  lr: 0.1\n")
    for word in ("optim.lr=fast", "optim.lr=[]", "method=???", "optim.lr=???", "views.global_scale=[[1],2]"):
        with pytest.raises(UserError) as error:
            load_config(recipe, [word])
        assert str(error.value).startswith(word.partition("=")[0])
    recipe.write_text("optim:\n  lr: fast\n")
    with pytest.raises(UserError, match=rf"^{recipe}: optim\.lr: takes a number"):
        load_config(recipe)


def test_few_bytes_that_stand_for_many_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="anchors and aliases are not used"):
        load_config(tmp_path / "bomb.yaml")
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="a key stands there twice"):
        load_config(tmp_path / "twice.yaml")


def test_schedules_of_a_long_run_are_drawn_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dinolab.cli import main
    from tests.pictures import make_folder

    monkeypatch.chdir(tmp_path)
    data, began = make_folder(tmp_path / "images"), time.monotonic()
    assert main(["train", f"data.path={data}", "optim.length=1000000000 steps", "show_schedules=true"]) == 0
    assert (tmp_path / "schedules.png").is_file() and time.monotonic() - began < 20


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = load_config(None, ["run.dir=~/run", "init.weights=~other/x"])
    assert cfg.run.dir == str(tmp_path / "run") and cfg.init.weights == "~other/x"
