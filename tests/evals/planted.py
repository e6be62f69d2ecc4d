"""Features made up for tests: classes are clusters."""

import torch

from dinolab.features.extract import FeatureSet


def cluster(seed, images, classes=3, dim=6, noise=1.0):
    """Features (N, D) around centres that are the same for every seed, and labels (N,)."""
    centres = 2 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    return centres[labels] + noise * torch.randn(images, dim, generator=g), labels


def feature_set(blocks, labels, patches=None, digests=None):
    n = len(labels)
    digests = torch.arange(n)[:, None].expand(n, 16).to(torch.uint8) if digests is None else digests
    return FeatureSet(blocks, torch.empty(n, 0) if patches is None else patches, labels, torch.arange(n), digests)
