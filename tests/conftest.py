"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(*parts: str) -> Path:
    """A folder beside the project that is no part of it: without it the test is skipped, and in CI it fails."""
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        message = f"{folder.name} is not at hand, as it lies outside of the project"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def har() -> Path:
    """The reduced Human Action Recognition set."""
    return shared("data", "har15_mini")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and results of published code, a folder for each subject."""
    return shared("golden")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
