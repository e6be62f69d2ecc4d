"""The trained backbone from checkpoints, as training saves them."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from dinolab.errors import UserError
from dinolab.models.vit import ViT
from dinolab.options import Model
from dinolab.weights.load import load, save_encoder

SIZE = 16


def random_vit() -> ViT:
    vit = ViT(Model(dim=16, depth=1, heads=2, patch_size=8), SIZE).eval()
    for p in vit.parameters():
        nn.init.normal_(p, std=0.1)
    return vit


def save(run: Path, networks: dict[str, nn.Module], **info: str) -> Path:
    """A checkpoint of a method with these networks, below a run whose own weights are others."""
    run.mkdir()
    save_encoder(random_vit(), run, {"method": "any", "step": 9, **info})
    method = nn.ModuleDict({name: nn.ModuleDict({"backbone": network}) for name, network in networks.items()})
    place = run / "checkpoints" / "step_00000007"
    dcp.save({"method": method.state_dict(), "step": torch.tensor(7)}, checkpoint_id=place, no_dist=True)
    return place


def test_the_network_that_the_run_is_for_is_opened(tmp_path: Path) -> None:
    """The one that the card names; where an earlier version named none, the teacher, or the student of a method without one."""
    student, teacher, images = random_vit(), random_vit(), torch.rand(2, 3, SIZE, SIZE)
    both = load(save(tmp_path / "both", {"student": student, "teacher": teacher}))
    alone = load(save(tmp_path / "alone", {"student": student}))
    named = load(save(tmp_path / "named", {"student": student, "teacher": teacher}, network="student"))
    for encoder, backbone, info in (
        (both, teacher, {}),
        (alone, student, {}),
        (named, student, {"network": "student"}),
    ):
        for name, tensor in encoder.backbone.state_dict().items():
            assert torch.equal(tensor, backbone.state_dict()[name]), name
        assert encoder.info == {"method": "any", "step": 7, **info}
    assert not torch.equal(both(images).cls, alone(images).cls)


def test_a_checkpoint_without_a_backbone_is_named(tmp_path: Path) -> None:
    place = save(tmp_path / "run", {"critic": random_vit()})
    with pytest.raises(UserError, match=r"step_00000007: this checkpoint cannot be read \(it holds no backbone\)"):
        load(place)


def test_a_run_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no model\.json there; give the folder of a dinolab run"):
        load(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"if it is a model of Hugging Face, write hf:{tmp_path}"):
        load(tmp_path)
    save_encoder(random_vit(), tmp_path, {})
    for file in ("model.safetensors", "model.json"):
        assert load(tmp_path / file).image_size == SIZE
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors there"):
        load(tmp_path)
