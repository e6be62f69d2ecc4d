"""Fixtures that several test files share."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from dinolab.weights.starter import FILE, PACKAGE

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def har() -> Path:
    """The reduced Human Action Recognition set; skipped where it is not at hand, required in CI."""
    folder = SHARED_DATA / "har15_mini"
    if not folder.is_dir():
        missing(folder.name)
    return folder


@pytest.fixture(scope="session")
def starter_file() -> Path:
    """The weights of the starter encoder; skipped where their package is not installed, required in CI."""
    try:
        return Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        missing(PACKAGE)


def missing(name: str) -> NoReturn:
    """Skips the test, for want of something that CI must have."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing in CI: {name}")
    pytest.skip(f"{name} is not at hand")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
