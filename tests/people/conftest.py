"""A study that is made once, and answered anew by each test."""

import shutil
from pathlib import Path

import pytest

from helpers.studied import two_suites
from saeworks.people.study import HumanStudy

Made = tuple[Path, HumanStudy]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    _, study, folder = two_suites(tmp_path_factory.mktemp("made"))
    return folder, study


@pytest.fixture
def unanswered(made: Made, tmp_path: Path) -> Made:
    """The study in a folder of the test's own, without answers."""
    folder = tmp_path / "study"
    shutil.copytree(made[0], folder)
    return folder, made[1]
