"""LightlyTrain's step, inside its own command `pretrain`: from the moment the batch is there until the teacher is updated."""

from typing import Any

import lightly_train
from lightly_train._methods.dinov2.dinov2 import DINOv2
from turns import Turns


def watch(turns: Turns) -> None:
    """Have the method's own hooks, which its trainer calls around each step, keep the times."""
    begin, end = DINOv2.on_train_batch_start, DINOv2.on_train_batch_end

    def prepared(self: DINOv2) -> None:
        turns.ready("lightly-train", "lightly", "pytorch-lightning")

    def loaded(self: DINOv2, *args: Any, **kwargs: Any) -> None:
        turns.loaded()
        begin(self, *args, **kwargs)

    def stepped(self: DINOv2, outputs: Any, *args: Any, **kwargs: Any) -> None:
        end(self, outputs, *args, **kwargs)  # updates the teacher
        turns.stepped(float(outputs["loss"]))

    DINOv2.on_train_start, DINOv2.on_train_batch_start, DINOv2.on_train_batch_end = prepared, loaded, stepped


def main() -> None:
    turns = Turns()
    case = turns.case
    watch(turns)
    lightly_train.pretrain(
        out=f"{case['folder']}/lightly_train",
        data=case["photos"],
        model="dinov2/vits14-notpretrained",
        method="dinov2",
        method_args={"output_dim": case["prototypes"], "student_freeze_last_layer_steps": 0},
        model_args={"drop_path_rate": case["drop_path"], "img_size": case["global_size"]},
        transform_args={
            "image_size": (case["global_size"], case["global_size"]),
            "local_view": {"num_views": case["locals"], "view_size": (case["local_size"], case["local_size"])},
        },
        batch_size=case["batch"],
        epochs=10_000,
        num_workers=0,
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if case["precision"] == "bf16" else "32-true",
    )


if __name__ == "__main__":
    main()
