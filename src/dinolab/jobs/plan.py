"""The choices of the job on Human Action Recognition: method, baselines, evaluations, and what a scale changes.

The rest of a scale is in configs/har_SCALE.yaml.
"""

from dataclasses import dataclass

NAME, TITLE = "har", "Human Action Recognition"
METHOD_TITLE = "DINOv2"
BASELINE = "dino"  # method that is trained beside, with the same options
EVALUATIONS = ("linear", "knn", "logreg")  # of all encoders, side by side
FINETUNING = "finetune"  # evaluation of the trained network and, as the supervised baseline, of the untrained one
SUBMISSION = "linear"  # evaluation that predicts classes for images without labels


@dataclass(frozen=True)
class Scale:
    about: str  # what is smaller than in the full job
    most: tuple[int, int] | None = None  # train and test images of each class, at most
    finetune_epochs: int = 100
    clip: int = 2  # test images of each class in the demo video
    attention: tuple[str, ...] = ()  # words for `dinolab bench attention`, and so on
    throughput: tuple[str, ...] = ()
    step: tuple[str, ...] | None = ()  # None: not measured


SCALES = {
    "smoke": Scale(
        "Only to see that everything works: ViT-S/8 is shrunk to 4 blocks of width 128 and images to 48 pixels; of each class there are "
        "45 train images, seen 4 times, and 30 test images; speed is measured at 64 and 128 pixels, without a whole training step.",
        most=(45, 30),
        finetune_epochs=2,
        clip=1,
        attention=("models=small/8", "sizes=64,128", "seconds=0.2"),
        throughput=("models=tiny/16,small/16,small/8", "size=64", "seconds=0.2"),
        step=None,
    ),
    "small": Scale(
        "ViT-S/8 is shrunk to 4 blocks of width 128, and images to 64 pixels.",
        finetune_epochs=20,
        attention=("models=small/8", "sizes=64,224"),
        throughput=("models=tiny/16,small/16,small/8", "size=64"),
    ),
    "full": Scale("Nothing is shrunk; photos with a short side below 224 pixels are enlarged.", clip=3),
}
