"""What `saeworks audit` prints, on a terminal of 80 columns and on a wide one."""

from pathlib import Path

import pytest
from rich.cells import cell_len

from saeworks.cli.audit import Audit, _studies
from saeworks.measure.audit import run
from saeworks.measure.audit.verdict import verdict
from saeworks.results.audit import AuditResult
from saeworks.results.metric import Metric, Value
from saeworks.results.section import Section

SITES = ("layers.0", "layers.11.attention.output")


def result() -> AuditResult:
    values: dict[str, dict[str, Value]] = {}
    for study in _studies():
        values[study.name] = dict.fromkeys(study.headline, Value(0.123, 0.1, 0.15))
    values["vector"]["r2_error"] = Value(0.6, 0.5912, 0.6101)
    values["shrinkage"]["alpha"] = Value(1.02)
    return AuditResult(
        title="Audit",
        config={},
        tokens=10_010,
        documents=136,
        folds={},
        sections={
            name: Section(
                name,
                "",
                "parts",
                metrics={key: Metric("", "") for key in found},
                sites=dict.fromkeys(SITES, found),
            )
            for name, found in values.items()
        }
        | {
            name: Section(name, "", "parts", series={key: {"tokens": tokens} for key in SITES})
            for name, tokens in {"pursuit": {"second": 3, "test": 4000}, "downstream": 2100}.items()
        },
        verdicts=dict.fromkeys(SITES, verdict(values)),
    )


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> list[str]:
    """Its lines, at a width."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    suites = [Path("runs/my run/topk"), Path("runs/my run/relu")]
    monkeypatch.setattr("saeworks.suite.find_all_suites", lambda paths: suites)
    monkeypatch.setattr(run, "audit_suites", lambda *_, **__: {suite: result() for suite in suites})
    assert Audit((Path("runs/my run"),))() == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("said", [80], indirect=True)
def test_it_fits_a_narrow_terminal(said: list[str]) -> None:
    assert max(cell_len(line) for line in said) <= 80
    text = "\n".join(said)
    assert "±0.009" in text and "0.600" in text
    assert "10,010 test tokens of 136 documents" in text
    assert text.count("More than half of the error is linear in x") == 4
    assert text.count("which may be false") == 1


@pytest.mark.parametrize("said", [100], indirect=True)
def test_it_says_what_was_measured_on_fewer_tokens(said: list[str]) -> None:
    text = "\n".join(said)
    assert text.count("of them, pursuit on 4,000, downstream on 2,100") == 2


@pytest.mark.parametrize("said", [160], indirect=True)
def test_a_wide_terminal_has_one_line_per_site(said: list[str]) -> None:
    assert sum("0.600 ±0.009" in line for line in said) == 4


@pytest.mark.parametrize("said", [80], indirect=True)
def test_it_ends_with_the_files_and_what_to_do_next(said: list[str]) -> None:
    assert said[-3:] == [
        "Audit: runs/my run/topk/results/audit.json",
        "Audit: runs/my run/relu/results/audit.json",
        "Next: saeworks report 'runs/my run'",
    ]
