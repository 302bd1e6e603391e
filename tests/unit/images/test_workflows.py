"""The workflows are valid YAML with the jobs that are expected, few rights, and no surprises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".github/workflows"
JOBS = {
    "ci": {"lint", "test"},
    "chart": {"test", "package"},
    "images": {"hadolint", "build"},
    "e2e-kind": {"kind"},
    "release": {"check", "images", "chart"},
}


def load(name: str) -> dict[str, Any]:
    """A workflow; BaseLoader leaves the key `on` a word."""
    found: dict[str, Any] = yaml.load((FOLDER / f"{name}.yaml").read_text(), Loader=yaml.BaseLoader)
    return found


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in load(name)["jobs"].values() for step in job["steps"]]


every = pytest.mark.parametrize("name", JOBS)


def test_these_workflows_and_no_others() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == JOBS.keys()


@every
def test_the_jobs(name: str) -> None:
    workflow = load(name)
    assert workflow["name"] == name
    assert workflow["on"]
    assert workflow["jobs"].keys() == JOBS[name]
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert int(job["timeout-minutes"]) <= 90
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        needed = [job["needs"]] if isinstance(job.get("needs", []), str) else job.get("needs", [])
        assert set(needed) <= JOBS[name]


@every
def test_few_rights(name: str) -> None:
    workflow = load(name)
    assert workflow["permissions"] == {"contents": "read"}
    writers = {job for job, body in workflow["jobs"].items() if "permissions" in body}
    assert writers == ({"chart"} if name == "release" else set())


@every
def test_actions_are_pinned_to_a_major_version(name: str) -> None:
    for step in steps(name):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


@every
def test_nothing_foreign_gets_into_a_shell(name: str) -> None:
    """Expressions in `run` are pasted, not quoted: values go through the environment."""
    assert not any("${{" in step.get("run", "") for step in steps(name))


@every
def test_what_the_workflows_call_is_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (FOLDER / f"{name}.yaml").read_text()
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    lines = [line for line in text.splitlines() if "uses:" not in line and "*" not in line]
    for path in re.findall(r"\b(?:operator|trainer-image|helm|tests|crds)/[\w./-]+", "\n".join(lines)):
        assert (ROOT / path).exists(), path
    assert "://" not in re.sub(r"oci://\$REGISTRY", "", text)


def test_releases_are_made_of_tags_alone() -> None:
    assert load("release")["on"] == {"push": {"tags": ["v*.*.*"]}}
    pushing = [step for name in JOBS for step in steps(name) if step.get("with", {}).get("push") == "true"]
    assert pushing
    assert all(step in steps("release") for step in pushing)
