"""Parsing of command lines: positionals, options, hints, ranges."""

import errno
from dataclasses import dataclass

import pytest

from dinolab import cli
from dinolab.cli.grammar import Family, Positional, Verb, find, parse, training_options, walk
from dinolab.cli.verbs import ROOT
from dinolab.config import parse_bytes, parse_size, read_options
from dinolab.errors import OPEN_FILES, UserError
from dinolab.fields import option, options
from dinolab.options import Config


@dataclass
class Toy:
    data: str = option("", "images", required=True)
    k: int = option(20, "neighbours", 1, 100)
    share: float = option(0.5, "a share", 0)
    fast: bool = option(False, "whether it is fast")
    kinds: list[str] = option([], "kinds")
    sides: list[int] = option([], "sides", 1)
    at: list[float] = option([0.5, 0.5], "a point")
    colour: str = option("red", "the colour", choices=("red", "green"))
    size: str = option("", "size", check=parse_size)


@dataclass
class More:
    k: int = option(20, "neighbours", 1, 100)
    place: str = option("", "where")


@dataclass
class Own:
    resume: bool = option(False, "continue")


def reply(*args):
    return args


ENCODER, CONFIG = Positional("MODEL", "a model"), Positional("CONFIG", "a recipe", required=False)
STAGES = Positional("STAGE", "stages", required=False, several=True, choices=("first", "second"))
TREE = Family(
    "toys",
    lambda: {
        "toy": Family(
            "a toy",
            lambda: {
                "spin": Verb("spins", reply, positionals=(ENCODER, CONFIG), options=(Toy,)),
                "both": Verb("two dataclasses", reply, positionals=(ENCODER,), options=(Toy, More)),
                "many": Verb("several words", reply, positionals=(ENCODER, STAGES), options=lambda: (Toy,)),
                "files": Verb("several words", reply, positionals=(Positional("FILE", "files", several=True),)),
            },
            "toy",
        ),
        "train": Verb("trains", reply, positionals=(CONFIG,), options=(Own,), training=True),
    },
    "verb",
)


def read(*words):
    return parse(find(TREE, words))


def refused(*words):
    with pytest.raises(UserError) as error:
        read(*words)
    return str(error.value)


def test_positionals_and_options_in_any_order():
    model, config, own = read("toy", "spin", "k=3", "run", "data=x", "base", "fast=true")
    assert (model, config, own.k, own.data, own.fast, own.share) == ("run", "base", 3, "x", True, 0.5)
    assert read("toy", "spin", "run", "data=x")[1] is None


def test_lists_are_written_with_or_without_brackets():
    for words in (["kinds=a,b", "sides=1,2", "at=0.25,3"], ["kinds=[a,b]", "sides=[1,2]", "at=[0.25,3]"]):
        own = read("toy", "spin", "run", "data=x", *words)[2]
        assert (own.kinds, own.sides, own.at) == (["a", "b"], [1, 2], [0.25, 3])
    own = read("toy", "spin", "run", "data=x", "kinds=", "sides=7")[2]
    assert (own.kinds, own.sides) == ([], [7])
    assert "takes 2 numbers" in refused("toy", "spin", "run", "data=x", "at=1")


def test_several_words_are_one_list():
    model, stages, _ = read("toy", "many", "run", "second", "data=x", "first")
    assert (model, stages) == ("run", ["second", "first"])
    assert read("toy", "many", "run", "data=x")[1] == []
    assert read("toy", "files", "a", "b") == [["a", "b"]]
    assert refused("toy", "files") == "FILE is missing: dinolab toy files FILE..."


def test_a_name_that_two_dataclasses_share_is_set_in_both():
    _, toy, more = read("toy", "both", "run", "data=x", "k=5", "place=here")
    assert (toy.k, more.k, more.place) == (5, 5, "here")


def test_an_existing_path_with_an_equals_sign_is_no_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.pth").touch()
    (tmp_path / "k=3").touch()
    model, _, own = read("toy", "spin", "lr=1.pth", "data=x", "k=3")
    assert (model, own.k) == ("lr=1.pth", 3)  # a known option stays one
    assert "there is no option lr" in refused("toy", "spin", "run", "data=x", "lr=2.pth")
    assert read("toy", "spin", "./a=b/c", "data=x")[0] == "./a=b/c"
    (tmp_path / "-x").touch()
    assert read("toy", "spin", "-x", "data=x")[0] == "-x"


def test_values_may_hold_equals_signs_and_line_ends():
    assert read("toy", "spin", "run", "data=a=b\nc")[2].data == "a=b\nc"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trane"], "'trane' is no verb; did you mean train?"),
        (["xyz"], "'xyz' is no verb; there are toy, train"),
        (["toy", "spn"], "'spn' is no toy; did you mean spin?"),
        (["toy", "spin", "run", "dta=x"], "there is no option dta; did you mean data?"),
        (["toy", "spin", "run", "zzzz=x"], "there is no option zzzz; see dinolab toy spin --help"),
        (["toy", "spin", "run", "data=x", "k=0"], "k=0: out of range, 1 to 100"),
        (["toy", "spin", "run", "data=x", "share=-1"], "share=-1.0: out of range, 0 or more"),
        (["toy", "spin", "run", "data=x", "share=nan"], "share=nan: out of range"),
        (["toy", "spin", "run", "data=x", "sides=4,0"], "sides=0: out of range, 1 or more"),
        (["toy", "spin", "run", "data=x", "colour=blue"], "colour=blue: one of red, green"),
        (["toy", "spin", "run", "data=x", "k=many"], "k: takes a whole number: 1 to 100 ('many' is not)"),
        (["toy", "spin", "run", "data=x", "sides=1,two"], "sides: takes whole numbers, separated by commas: 1 or more"),
        (["toy", "spin", "run", "data=x", "size=big"], "size=big: not a size in pixels"),
        (["toy", "spin", "run", "c", "data=x", "y" * 300], "one word too many"),
        (["toy", "spin", "run"], "data is not set: images"),
        (["toy", "spin", "data=x"], "MODEL is missing: dinolab toy spin MODEL [CONFIG] data=... [key=value ...]"),
        (
            ["toy", "spin", "a", "b", "c", "data=x"],
            "'c' is one word too many for `dinolab toy spin`; options are written key=value",
        ),
        (["toy", "many", "run", "data=x", "frist"], "STAGE 'frist' is not one of first, second; did you mean first?"),
    ],
)
def test_mistakes(words, message):
    assert message in refused(*words)


def test_a_path_in_the_wrong_place_is_meant_for_the_missing_option(tmp_path):
    there = str(tmp_path)
    assert refused("toy", "spin", "a", "b", there).endswith(f"did you mean data={there}?")
    assert refused("toy", "many", "a", there).endswith(f"did you mean data={there}?")
    assert "did you mean" not in refused("toy", "many", "a", there, "data=x")


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["--data", "DIR"], "data=DIR"),
        (["--data=DIR"], "data=DIR"),
        (["-k", "5"], "k=5"),
        (["--fast"], "fast=true"),
        (["--no-fast"], "fast=false"),
        (["--datta", "DIR"], "data=DIR"),
        (["--data"], "data=VALUE"),
        (["--quality"], "quality=VALUE"),
    ],
)
def test_flags_from_habit(words, instead):
    assert refused("toy", "spin", "run", *words) == f"{words[0]}: options are written key=value: {instead}"


def test_training_options_are_passed_on_and_own_ones_are_not():
    config, own, words = read("train", "base", "optim.lr=1", "resume=true", "method=dino", "no_such.option=1")
    assert (config, own.resume) == ("base", True)
    assert words == ["optim.lr=1", "method=dino", "no_such.option=1"]  # load_config refuses the last
    assert refused("train", "resum=true") == "there is no option resum; did you mean resume?"
    assert refused("train", "--optim.lr", "3") == "--optim.lr: options are written key=value: optim.lr=3"
    assert refused("train", "--batch-size", "3").endswith("optim.batch_size=3")


def test_sizes_in_bytes():
    assert [parse_bytes(text, "x") for text in ("7", "2K", "500m", "1G")] == [7, 2000, 500_000_000, 1_000_000_000]
    for text in ("", "G", "0", "1.5G", "-1", "1T"):
        with pytest.raises(UserError, match="x="):
            parse_bytes(text, "x")


def test_training_lists_need_no_brackets():
    assert read_options(Config, ["optim.betas=0.5,0.9"]).optim.betas == [0.5, 0.9]


def test_every_option_of_every_verb_is_documented_and_unlike_those_of_trainings():
    trained = training_options("")
    for place in walk(ROOT):
        assert place.at.help, place.name
        assert all(positional.help for positional in place.at.positionals)
        for name, f in place.at.own_options.items():
            assert f.metadata["help"], f"{place.name} {name}"
            assert not (place.at.training and name in trained), f"{place.name} {name}"
            assert not f.metadata.get("choices") or f.metadata.get("required") or f.default in f.metadata["choices"]


def test_every_example_is_a_command():
    todo = [ROOT]
    examples = [example for place in walk(ROOT) for example in place.at.examples]
    while todo:
        family = todo.pop()
        examples += family.examples
        todo += [one for one in family.members().values() if isinstance(one, Family)]
    assert len(examples) > 15
    for example in examples:
        parse(find(ROOT, example.partition(" > ")[0].split()))


def test_a_job_gets_stages_options_and_training_options():
    stages, own, words = parse(find(ROOT, ["job", "har", "train", "data=x", "optim.lr=1", "scale=smoke", "video"]))
    assert (stages, own.data, own.scale, own.out, words) == (
        ["train", "video"],
        "x",
        "smoke",
        "runs/har",
        ["optim.lr=1"],
    )


def test_a_job_without_a_name_is_that_on_own_images():
    data, own, columns = parse(
        find(ROOT, ["job", "photos", "budget=20min", "ways=frozen,scratch", "label_column=kind"])
    )
    assert (data, own.budget, own.ways, columns.label_column) == ("photos", "20min", ["frozen", "scratch"], "kind")
    with pytest.raises(UserError, match="DATA is missing: dinolab job DATA"):
        parse(find(ROOT, ["job"]))


def test_a_folder_is_no_recipe_but_a_run_to_resume(tmp_path, capsys):
    assert cli.main(["train", str(tmp_path)]) == 2
    assert f"write data.path={tmp_path} to train on its images, or resume=true" in capsys.readouterr().err
    assert cli.main(["train", str(tmp_path), "resume=true"]) == 2
    assert f"{tmp_path / 'config.yaml'}: cannot be read" in capsys.readouterr().err


def test_only_the_last_positional_takes_several():
    for place in walk(ROOT):
        assert not any(positional.several for positional in place.at.positionals[:-1]), place.name


def test_stages_and_scales_are_those_of_the_job():
    from dinolab.cli import job
    from dinolab.jobs import SCALES, STAGES

    assert tuple(STAGES) == job.STAGES
    assert tuple(SCALES) == dict(options(job.Har))["scale"].metadata["choices"]


def test_status_and_messages_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(cli, "ROOT", TREE)
    assert cli.main(["toy"]) == 2
    assert capsys.readouterr().err == (
        "dinolab: TOY is missing, one of spin, both, many, files: dinolab toy TOY [key=value ...]\n"
    )
    assert cli.main(["toy", "spin", "--k", "3"]) == 2
    assert capsys.readouterr().err == "dinolab: --k: options are written key=value: k=3\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no such file"), 2, "dinolab: no such file\n"),
        (OSError("disk full"), 2, "dinolab: disk full\n"),
        (RuntimeError("shapes do not match"), None, ""),
        (RuntimeError("CUDA out of memory"), 2, "dinolab: out of memory: try a smaller size=\n"),
        (RuntimeError("[enforce fail] can't allocate memory: 1"), 2, "dinolab: out of memory: try a smaller size=\n"),
        (RuntimeError("could not create a primitive"), 2, "dinolab: out of memory: try a smaller size=\n"),
        (MemoryError(), 2, "dinolab: out of memory: try a smaller size=\n"),
        (OSError(errno.EMFILE, "Too many open files"), 2, f"dinolab: {OPEN_FILES}\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            2,
            "dinolab: the disk of /a is full; free some space there and give the same command again, or write to another disk\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_ends_a_verb(monkeypatch, capsys, error, status, message):
    def fail(own):
        raise error

    tree = Family("toys", lambda: {"fail": Verb("fails", fail, options=(Toy,))}, "verb")
    monkeypatch.setattr(cli, "ROOT", tree)
    if status is None:  # any other error is a fault of the program
        with pytest.raises(RuntimeError):
            cli.main(["fail", "data=x"])
    else:
        assert cli.main(["fail", "data=x"]) == status
        assert capsys.readouterr().err == message
