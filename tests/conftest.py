"""Fixtures that several test files share."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from dinolab.weights.starter import FILE, PACKAGE
from tests.browsing import ARGUMENTS, CHROMIUM

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(*parts: str) -> Path:
    """A folder beside the project that is no part of it: without it the test is skipped, and in CI it fails."""
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        missing(folder.name)
    return folder


@pytest.fixture(scope="session")
def har() -> Path:
    """The reduced Human Action Recognition set."""
    return shared("data", "har15_mini")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Inputs and results of published code, a folder for each subject."""
    return shared("golden")


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


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; skipped where there is none, or no playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as browsers:
        opened = browsers.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()
