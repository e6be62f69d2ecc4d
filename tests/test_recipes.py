import re
from pathlib import Path

import pytest

from dinolab.config import flatten, parse_duration, to_dict
from dinolab.errors import UserError
from dinolab.fields import options
from dinolab.methods import METHODS
from dinolab.options import Model
from dinolab.recipes import load_config, load_saved_config, save_config, schema

RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_precedence_and_round_trip(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optim:\n  lr: 0.1\n  batch_size: 32\n")
    cfg = load_config(tmp_path / "mine.yaml", ["optim.lr=5e-4", "views.local_scale=[0.1,0.3]", "data.path=some/dir"])
    assert (cfg.optim.lr, cfg.optim.batch_size, cfg.optim.clip) == (5e-4, 32, 3.0)
    assert cfg.views.local_scale == [0.1, 0.3]
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == load_saved_config(tmp_path / "config.yaml") == cfg


@pytest.mark.parametrize(("words", "message"), [
    (["optim.lrr=1"], r"no option optim\.lrr; did you mean optim\.lr\?"),
    (["lr=1"], r"did you mean optim\.lr\?"),
    (["optim.lr=fast"], r"optim\.lr"),
    (["optim.lr=-1"], r"optim\.lr=-1.*out of range, 0 to 10"),
    (["model.size=huge"], r"model\.size=huge: one of tiny, small"),
    (["views.global_size=225"], r"views\.global_size=225 is not a multiple of model\.patch_size=16; 224 is"),
    (["views.global_scale=[0.9,0.4]"], r"views\.global_scale.*must not be larger"),
    (["views.blur=[0.5,0.5]"], r"views\.blur.*takes 3 numbers"),
    (["run.micro_batch=7"], r"run\.micro_batch=7 does not divide optim\.batch_size=64"),
    (["optim.batch_size"], r"written key=value"),
    (["optim=3"], r"optim"),
    (["masks.share=0"], r"masks\.share or masks\.ratio masks no patch"),
    (["eval.size=8"], r"eval\.size=8 is smaller than model\.patch_size=16"),
    (["run.micro_batch=1"], r"run\.micro_batch=1: KoLeo"),
    (["optim.betas=[0.9,1.0]"], r"optim\.betas=1\.0"),
    (["run.save_every=500"], r"run\.save_every='500' is no duration; write \"10 epochs\", \"500 steps\" or \"10%\""),
    (["run.keep_every=7"], r"run\.keep_every='7' is no duration"),
    (["optim.length=50%"], r"optim\.length is the length of the run itself; give it in epochs or steps"),
    (["highres.length=10%"], r"highres\.length is the length of its phase itself"),
])  # fmt: skip
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_config(None, words)
    assert "\n" not in str(error.value)


DURATIONS = [name for name, f in options(schema()) if f.metadata.get("duration")]


@pytest.mark.parametrize("name", DURATIONS)
def test_every_duration_is_checked_at_once(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(name)}='abc' is no duration"):
        load_config(None, [f"{name}=abc"])


def test_durations() -> None:
    units = re.compile(r"[\d.]+ ?(steps|epochs|%)")  # whatever looks like one is one
    assert {name for name, value in flatten(to_dict(schema()())).items() if units.fullmatch(str(value))} == set(
        DURATIONS
    )
    assert parse_duration("10 epochs", "x") == (10, "epochs")
    assert parse_duration("500steps", "x") == (500, "steps")
    assert parse_duration(" 2.5% ", "x") == (2.5, "%")
    for bad in ("10", "ten epochs", "10 weeks", "-1 steps", ""):
        with pytest.raises(UserError, match=r"optim\.warmup"):
            parse_duration(bad, "optim.warmup")


@pytest.mark.parametrize(
    "folder", ["007", "2024_01_15", "/d/my #1 x", "yes", "1e5", "[2024] photos", "[", "a=b", "null", ""]
)
def test_text_is_taken_as_it_stands(folder: str) -> None:
    assert load_config(None, [f"data.path={folder}"]).data.path == folder


@pytest.mark.parametrize("folder", ["007", "1_000", "1.50", "1e400", "0x1F", "1:30", "yes", "False", "2024-01-15", "="])
def test_text_in_a_file_is_taken_as_it_stands(folder: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data:\n  path: {folder}\nseed: 007\nrun:\n  compile: yes\n")
    cfg = load_config(recipe)
    assert (cfg.data.path, cfg.seed, cfg.run.compile) == (folder, 7, True)
    save_config(cfg, tmp_path / "saved.yaml")
    assert load_saved_config(tmp_path / "saved.yaml") == cfg


def test_a_path_that_does_not_exist_is_not_taken_for_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "dinov2_vits8.yaml")
    (tmp_path / "recipe.yaml").write_text(f"base: {'7' * 300}\n")  # longer than a file's name can be
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(("text", "message"), [
    ("optim:\n  lerning_rate: 1\n", r"bad\.yaml: there is no option optim\.lerning_rate"),
    ("optim: [1, 2]\n", r"optim"),
    ("optim:\n lr: 1\n  x: {\n", r"bad\.yaml"),
    ("- a\n- b\n", r"bad\.yaml"),
    ("method: [5]\n", r"method=\['5'\]: one of"),
])  # fmt: skip
def test_mistakes_in_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "bad.yaml")


def test_a_missing_file_names_the_recipes() -> None:
    with pytest.raises(UserError, match=r"distil: no such config file; did you mean distill\?"):
        load_config("distil")
    with pytest.raises(UserError, match=r"nothing\.yaml: no such config file; dinolab's own are .*dinov2_vits8"):
        load_config("nothing.yaml")


def test_every_option_is_documented() -> None:
    for method in METHODS:
        made = schema(method)
        assert {name for name, _ in options(made)} == set(flatten(to_dict(made())))
        assert all(len(f.metadata["help"]) > 10 for _, f in options(made))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipes_load_and_say_what_they_are(recipe: Path) -> None:
    cfg = load_config(recipe.stem)
    header = recipe.read_text().split("\n\n")[0]
    assert all(word in header for word in ("Command:", "Hardware:", "Time:", "Expected:"))
    assert cfg.method in recipe.stem or recipe.stem.startswith(("demo", "small_", "har_", "continue_", "infomin_"))


def test_there_are_recipes() -> None:
    wanted = {"dino_vits16", "dino_vits8", "dinov2_vits16", "dinov2_vits14", "dinov2_vits8", "demo"}
    wanted |= {"small_1k", "small_10k", "small_100k"}
    assert wanted <= {p.stem for p in RECIPES}


def test_a_method_has_its_own_options_and_no_other() -> None:
    with pytest.raises(
        UserError, match=r"loss\.koleo=1: method=dino has no such option; it belongs to dinov2, distill$"
    ):
        load_config(None, ["method=dino", "loss.koleo=1"])
    with pytest.raises(
        UserError, match=r"teacher=runs/large: method=dinov2 has no such option; it belongs to distill$"
    ):
        load_config(None, ["teacher=runs/large"])
    with pytest.raises(UserError, match=r"method=dyno: one of dinov2, dino"):
        load_config(None, ["method=dyno"])
    assert not hasattr(load_config(None, ["method=dino"]), "ibot_head")


def test_a_recipe_may_be_used_with_another_method() -> None:
    cfg = load_config("small_10k", ["method=dino"])
    own = load_config("small_10k")
    assert cfg.method == "dino" and not hasattr(cfg.loss, "koleo")
    assert (cfg.head.prototypes, cfg.optim.lr) == (own.head.prototypes, own.optim.lr)


@pytest.mark.parametrize("recipe", ["small_10k", "har_small", "dino_vits8", "simclr_vits16"])
def test_a_recipe_may_be_used_with_a_convolutional_network(recipe: str) -> None:
    usual = load_config(recipe)
    cfg = load_config(recipe, ["model.size=small", "model.size=resnet50"])
    assert cfg.model == Model(size="resnet50")
    assert (cfg.optim.lr, cfg.views, cfg.optim.length) == (usual.optim.lr, usual.views, usual.optim.length)
    with pytest.raises(UserError, match=r"model\.dim=64: for vision transformers only; leave it out"):
        load_config(recipe, ["model.size=resnet50", "model.dim=64"])


def test_a_recipe_may_start_from_another(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: small_10k\noptim: {lr: 0.5}\n")
    (tmp_path / "yours.yaml").write_text("base: mine.yaml\nseed: 7\n")
    cfg, base = load_config(tmp_path / "yours.yaml"), load_config("small_10k")
    assert (cfg.optim.lr, cfg.seed, cfg.optim.batch_size) == (0.5, 7, base.optim.batch_size)
    assert cfg.head == base.head and cfg.run.dir == "runs/yours"
    (tmp_path / "mine.yaml").write_text("base: yours.yaml\n")
    with pytest.raises(UserError, match="its base leads back to itself"):
        load_config(tmp_path / "yours.yaml")
    (tmp_path / "mine.yaml").write_text("base: [a, b]\n")
    with pytest.raises(UserError, match="names one recipe"):
        load_config(tmp_path / "mine.yaml")


def test_an_option_that_was_renamed() -> None:
    with pytest.raises(UserError, match=r"optim\.freeze_prototypes is now called loss\.freeze_prototypes"):
        load_config(None, ["optim.freeze_prototypes=1 epochs"])


def test_renamed_options_in_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("optim: {freeze_prototypes: 3 steps}\n")
    assert load_config(tmp_path / "mine.yaml").loss.freeze_prototypes == "3 steps"
