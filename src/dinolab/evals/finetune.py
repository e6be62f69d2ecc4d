"""Fine-tuning of all weights, as DeiT. The training itself, which needs timm, is in finetune_training.py."""

from dataclasses import dataclass
from typing import Any

from dinolab.errors import UserError
from dinolab.evals.augmented import Training
from dinolab.evals.classification import Classification, Classified
from dinolab.evals.contract import Context
from dinolab.evals.heads import Input, Trained
from dinolab.evals.labelled_images import LabelledImages, Sides, TestSet
from dinolab.evals.state import state_file
from dinolab.fields import option
from dinolab.models.encoder import BackboneEncoder
from dinolab.weights.timm_models import TimmEncoder


class FineTuning(Classification):
    title = "fine-tuning"
    about = "All weights of a copy of the encoder are trained with labels, as in DeiT, with layer-wise learning rates."
    earlier = "fine-tuning of all weights, as DeiT"
    trains_encoder = True

    @dataclass
    class Options(LabelledImages.Options):
        epochs: int = option(100, "passes over the training images", 1, 1 << 20)
        batch_size: int = option(64, "images in a batch", 1, 1 << 20)
        lr: float = option(5e-4, "peak learning rate for batches of 256, of the last layer", 1e-12, 1e6)

    def check(self, encoder: Any, options: Any) -> None:
        if not isinstance(encoder, BackboneEncoder | TimmEncoder):
            raise UserError(
                "fine-tuning takes a run, official weights, or a model of Hugging Face or timm, and no other encoder"
            )
        from dinolab.evals import finetune_training  # noqa: F401  # raises UserError where timm is missing

    def classify(
        self, encoder: Any, data: LabelledImages, options: "FineTuning.Options", context: Context, seed: int
    ) -> tuple[Sides, Classified]:
        from dinolab.evals.finetune_training import finetune  # here, since timm may be missing

        split = data.split(seed)
        train = data.train_features(encoder, split)
        training = Training(options.epochs, options.batch_size, (options.lr,))
        probabilities, chosen, found, tuned = finetune(
            encoder, split.train, train, split.tests, context.size, training, seed, context.device, context.workers,
            context.precision, context.progress, state_file(context.out, seed),
        )  # fmt: skip
        tests = [*map(TestSet, split.tests, found)]
        return Sides(split.train, train, tests, split.origin), Classified(
            probabilities, chosen, layer=Trained(tuned.head, Input(1, "cls")), encoder=tuned.encoder
        )
