"""Train a network with LightlyTrain for a number of steps, and write the features of some images."""

import json
import sys
from pathlib import Path
from typing import Any

import lightly_train
import numpy as np
import torch
import torchvision
from lightly_train._models import package_helpers
from lightly_train._models.dinov2_vit.dinov2_vit_src.models.vision_transformer import DinoVisionTransformer

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SMALL = {"embed_dim": 128, "depth": 4, "num_heads": 4, "patch_size": 16, "img_size": 96}


def make_model(name: str) -> torch.nn.Module:
    """The network of small_10k in LightlyTrain's own ViT, or one of torchvision."""
    return DinoVisionTransformer(**SMALL, block_chunks=0) if name == "small" else torchvision.models.get_model(name)


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """The method and, for the small network, the views of small_10k; all else is left to LightlyTrain.

    Its counts of steps at the start (frozen last layer, warm-ups) are for 125,000 steps. For the small network they get the same
    shares of this training: otherwise the last layer would never leave its initial values.
    """
    found: dict[str, Any] = {"method": case["method"]} | ({"optim": case["optim"]} if "optim" in case else {})
    if case["model"] == "small":
        found["transform_args"] = {
            "image_size": (96, 96),
            "random_resize": {"min_scale": 0.32, "max_scale": 1.0},
            "local_view": {
                "num_views": 4,
                "view_size": (48, 48),
                "random_resize": {"min_scale": 0.05, "max_scale": 0.32},
            },
        }
        found["method_args"] = {"student_freeze_last_layer_steps": case["steps"] // 100}
        if case["method"] == "dinov2":
            found["method_args"]["warmup_steps"] = case["steps"] // 10
            found["method_args"]["teacher_temp_warmup_steps"] = 3 * case["steps"] // 10
        if "prototypes" in case:
            found["method_args"]["output_dim"] = case["prototypes"]
    return found


def main() -> None:
    case = json.loads(Path(sys.argv[1]).read_text())
    out, batch = Path(case["folder"]) / "run", 128  # LightlyTrain's default, written out to count the epochs
    torch.manual_seed(case["seed"])
    model = make_model(case["model"])
    lightly_train.pretrain(
        out=out,
        data=case["photos"],
        model=model,
        batch_size=batch,
        epochs=-(-case["steps"] // (len(case["photos"]) // batch)),
        seed=case["seed"],
        num_workers=0,
        accelerator="cpu",
        devices=1,
        trainer_args={"max_steps": case["steps"]},
        **settings(case),
    )
    model.load_state_dict(torch.load(out / "exported_models" / "exported_last.pt", weights_only=True))
    network = package_helpers.get_wrapped_model(model=model, num_input_channels=3).eval()
    for images, target in case["features"]:
        with torch.inference_mode():
            parts = [(part / 255 - MEAN) / STD for part in torch.from_numpy(np.load(images)).split(100)]
            found = [network.forward_pool(network.forward_features(x))["pooled_features"].flatten(1) for x in parts]
        np.save(target, torch.cat(found).float().numpy())


if __name__ == "__main__":
    main()
