"""The files that keep the project's habits are valid, and agree with pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pythons() -> list[str]:
    """The versions that the classifiers name, oldest first."""
    found = [re.fullmatch(r".*Python :: (3\.\d+)", text) for text in project()["classifiers"]]
    return sorted((m[1] for m in found if m), key=lambda version: int(version[2:]))


def jobs(path: Path) -> dict[str, Any]:
    return read(path)["jobs"]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job.get("steps", ()) if "run" in step]


def named_pythons(job: dict[str, Any]) -> list[str]:
    """The versions of Python that a job runs on, its matrix written out."""
    found: list[str] = []
    for step in job.get("steps", ()):
        version = step.get("with", {}).get("python-version")
        if version == "${{ matrix.python }}":
            found += job["strategy"]["matrix"]["python"]
        elif version is not None:
            found.append(version)
    return found


def test_there_are_workflows_and_forms() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]
    assert [path.name for path in FORMS] == ["bug.yml", "number.yml"]


def test_the_oldest_python_is_the_same_everywhere() -> None:
    assert project()["requires-python"] == f">={pythons()[0]}"


def test_ci_runs_the_same_script_on_every_python() -> None:
    runs = [job for job in jobs(WORKFLOWS[0]).values() if ".ci/run" in commands(job)]
    assert len(runs) == 1 and (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert named_pythons(runs[0]) == pythons()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_known_pythons_and_known_targets(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, job in jobs(path).items():
        for version in named_pythons(job):
            assert version in pythons(), f"{path.name}: {name}"
        for command in commands(job):
            for target in re.findall(r"\bmake (\S+)", command):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: {command}"


def test_what_is_published_was_tested_and_its_demo_ran_where_nothing_else_is() -> None:
    # YAML 1.1 reads the key `on` as true
    assert read(WORKFLOWS[1])[True] == {"push": {"tags": ["v*"]}}
    release = jobs(WORKFLOWS[1])
    assert release["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in read(WORKFLOWS[0])[True]
    assert set(release["publish"]["needs"]) == {"test", "demo"}
    assert release["demo"]["needs"] == "build"
    assert named_pythons(release["demo"]) == [pythons()[0], pythons()[-1]]
    assert release["demo"]["strategy"]["matrix"]["built"] == ["*.whl", "*.tar.gz"]
    assert not any("checkout" in step.get("uses", "") for step in release["demo"]["steps"])
    assert any(
        command.endswith(f"{project()['name']} demo") for command in commands(release["demo"])
    )


def test_only_the_job_that_publishes_may_speak_for_the_project() -> None:
    for path in WORKFLOWS:
        assert read(path)["permissions"] == {"contents": "read"}
        allowed = {
            name: job["permissions"] for name, job in jobs(path).items() if "permissions" in job
        }
        expected = {"publish": {"id-token": "write"}} if path.name == "release.yml" else {}
        assert allowed == expected


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_for_the_version_and_the_command(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) and "command" in ids
    assert f"{project()['name']} --version" in path.read_text(encoding="utf-8")


def test_hooks_are_the_projects_own_or_pinned_from_the_index() -> None:
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        if hook["language"] == "system":
            assert hook["entry"].startswith(".venv/bin/python -m ")
        else:
            assert all("==" in package for package in hook["additional_dependencies"])


def test_the_citation_says_what_pyproject_says() -> None:
    citation, own = read(ROOT / "CITATION.cff"), project()
    assert citation["title"].lower() == f"{own['name']}: {own['description']}".lower()
    assert citation["license"] == own["license"] and citation["keywords"] == own["keywords"]
    assert {"cff-version", "message", "authors"} <= citation.keys()


def test_what_the_dev_extra_installs_is_pinned() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for text in project()["optional-dependencies"]["dev"]:
        name = re.split(r"[\[<>=]", text)[0]
        assert re.search(rf"^{name}==", pinned, re.MULTILINE | re.IGNORECASE), name
