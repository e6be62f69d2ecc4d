"""Multi-scale features, GeM and whitening against the numbers of published code, and an encoder that gives them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinolab.features.descriptors import Descriptor, generalised_mean, over_scales
from dinolab.features.neighbours import nearest
from dinolab.features.whitening import learn_whitening, whitening_of
from dinolab.models.encoder import BackboneEncoder
from dinolab.models.vit import ViT
from dinolab.options import Model

Numbers = dict[str, torch.Tensor]


def read(file: Path) -> Numbers:
    with np.load(file) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_multi_scale_of_one_image_and_of_a_batch(golden: Path) -> None:
    z = read(golden / "retrieval" / "multi_scale.npz")

    def toy(images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(images, (4, 4)).flatten(1) @ z["weight"]

    torch.testing.assert_close(over_scales(z["image"], toy), z["descriptor"], atol=1e-6, rtol=0)
    torch.testing.assert_close(over_scales(z["batch"], toy), z["descriptor_one_by_one"], atol=1e-6, rtol=0)


def test_class_token_with_generalised_mean(golden: Path) -> None:
    z = read(golden / "copydays" / "gem.npz")
    cls, patches = z["tokens"][:, 0], z["tokens"][:, 1:].unflatten(1, tuple(z["grid"].tolist()))
    torch.testing.assert_close(torch.cat([cls, generalised_mean(patches)], 1), z["features"], atol=1e-6, rtol=0)


def test_whitening(golden: Path) -> None:
    z = read(golden / "copydays" / "search.npz")
    queries = torch.cat([z[name] for name in ("original", "strong", "jpeg", "crop")])
    database = torch.cat([z["original"], z["distractors"]])
    whitening = whitening_of(z["mean"], z["second_moment"])
    found = nearest(whitening.apply(database), whitening.apply(queries), 20)
    torch.testing.assert_close(found[0], z["similarities_20"], atol=1e-6, rtol=0)
    assert torch.equal(found[1], z["nearest_20"].long())
    # the published code sums up the moment in float32, which moves similarities by 2e-6
    learned = learn_whitening(z["for_whitening"])
    found = nearest(learned.apply(database), learned.apply(queries), 20)
    torch.testing.assert_close(found[0], z["similarities_20"], atol=4e-6, rtol=0)


def test_whitening_of_a_covariance_without_full_rank(golden: Path) -> None:
    z = read(golden / "copydays" / "pca.npz")
    found = whitening_of(torch.zeros(10), z["cov"])
    ours, theirs = z["x"] @ found.matrix.T, z["y"]
    torch.testing.assert_close(
        ours @ ours.T, theirs @ theirs.T, rtol=1e-6, atol=1e-6 * float((theirs @ theirs.T).max())
    )
    first, five = ours[:, :5], z["y_dim5"]  # in the order of the eigenvalues
    torch.testing.assert_close(first @ first.T, five @ five.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("tokens", "width"), [("cls", 12), ("gem", 12), ("both", 24)])
def test_a_descriptor_stands_in_for_the_class_token(tokens: str, width: int) -> None:
    torch.manual_seed(0)
    encoder = BackboneEncoder(ViT(Model(dim=12, depth=1, heads=2, patch_size=4), 16)).eval()
    images = torch.randint(256, (3, 3, 24, 32), dtype=torch.uint8)
    plain = Descriptor(encoder, tokens)(images).cls
    assert plain.shape == (3, width)
    averaged = Descriptor(encoder, tokens, multi_scale=True)(images).cls
    torch.testing.assert_close(averaged.norm(dim=1), torch.ones(3))
    alone = [Descriptor(encoder, tokens, multi_scale=True)(image[None]).cls for image in images]
    torch.testing.assert_close(averaged, torch.cat(alone))
    assert not torch.allclose(averaged, F.normalize(plain, dim=1), atol=1e-4)
