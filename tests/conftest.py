"""What every test shares: offline, few threads, annotations checked at run time, real models."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")

from jaxtyping import install_import_hook

# Before anything imports saeworks: from here on, every jaxtyping annotation is checked.
install_import_hook("saeworks", "helpers.annotations.checked")

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():  # before anyone imports triton: its kernels run on the CPU then
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    torch.set_num_threads(min(2, int(os.environ["OMP_NUM_THREADS"])))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real language models and their text."""
    path = Path(os.environ.get("SAEWORKS_REAL_DATA", ROOT.parent / "shared" / "models"))
    if not path.is_dir():
        pytest.skip(f"no real models at {path}: set SAEWORKS_REAL_DATA to their folder")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium for the tests of a module."""
    from helpers.browsing import chromium

    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(autouse=True)
def _global_seed() -> Iterator[None]:
    """No test depends on what ran before it in the same process."""
    torch.manual_seed(0)
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and "real" in report.keywords
    ]
    terminalreporter.write_line(f"real-model tests run: {len(ran)}")
