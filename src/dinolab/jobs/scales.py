"""What the scales of the job change beside the training's configuration, configs/har_SCALE.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    about: str  # what is smaller than in the job as it was asked for
    most: tuple[int, int] | None = None  # images of each class, to learn from and to be asked of
    finetune_epochs: int = 100
    clip: int = 2  # test images of each class in the demo video
    attention: tuple[str, ...] = ()  # words for `dinolab bench attention`, and so on
    throughput: tuple[str, ...] = ()
    step: tuple[str, ...] | None = ()  # None: not measured


SCALES = {
    "smoke": Scale(
        "Only to see that everything works: ViT-S/8 is shrunk to 4 blocks of width 128, images to 48 pixels; 45 images of each class are "
        "learned from, 4 times, and 30 are asked of; speed is measured at 64 and 128 pixels, and no whole training step.",
        most=(45, 30),
        finetune_epochs=2,
        clip=1,
        attention=("--models", "small/8", "--sizes", "64", "128", "--seconds", "0.2"),
        throughput=("--models", "tiny/16", "small/16", "small/8", "--size", "64", "--seconds", "0.2"),
        step=None,
    ),
    "small": Scale(
        "ViT-S/8 is shrunk to 4 blocks of width 128, images to 64 pixels.",
        finetune_epochs=20,
        attention=("--models", "small/8", "--sizes", "64", "224"),
        throughput=("--models", "tiny/16", "small/16", "small/8", "--size", "64"),
    ),
    "full": Scale("Nothing is shrunk; photos with a short side below 224 pixels are enlarged.", clip=3),
}
