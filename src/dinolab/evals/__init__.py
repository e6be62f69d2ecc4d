"""Evaluations of encoders. `EVALS` names them; each is one file, and contract.py says what such a file holds."""

from dinolab.evals.contract import Evaluation
from dinolab.evals.copies import CopyDetection
from dinolab.evals.davis import DAVIS
from dinolab.evals.depth import Depth
from dinolab.evals.finetune import FineTuning
from dinolab.evals.knn import KNN
from dinolab.evals.linear import LinearHeads
from dinolab.evals.linear_dino import LinearDINO
from dinolab.evals.logreg import LogisticRegression
from dinolab.evals.retrieval import Retrieval
from dinolab.evals.robustness import Robustness
from dinolab.evals.segmentation import Segmentation
from dinolab.evals.transfer import Transfer
from dinolab.evals.video import ClipClassification

EVALS: dict[str, Evaluation] = {
    "linear": LinearHeads(),
    "knn": KNN(),
    "logreg": LogisticRegression(),
    "linear-dino": LinearDINO(),
    "finetune": FineTuning(),
    "davis": DAVIS(),
    "retrieval": Retrieval(),
    "copies": CopyDetection(),
    "segmentation": Segmentation(),
    "depth": Depth(),
    "robustness": Robustness(),
    "transfer": Transfer(),
    "video": ClipClassification(),
}
