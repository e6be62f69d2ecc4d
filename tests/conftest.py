"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def har() -> Path:
    """The reduced Human Action Recognition set; skipped where it is not at hand, required in CI."""
    folder = SHARED_DATA / "har15_mini"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the test images are missing in CI: {folder.name}")
        pytest.skip("har15_mini is not at hand")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
