"""What `validate` finds in a file: its jobs with their problems, each on its line, and what it did not check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.problems import Problem, problem
from finetune_cli.checks import problems_of
from finetune_cli.jobfile import is_finetune_job, name_of, namespace_of, read_located
from finetune_cli.yamltext import Document


@dataclass(frozen=True)
class Located:
    """A problem, and the line of its field, or of what is nearest above a field that is not there."""

    line: int
    problem: Problem


@dataclass(frozen=True)
class JobFindings:
    """A FinetuneJob; without problems it is valid."""

    line: int
    namespace: str
    name: str
    problems: list[Located]


@dataclass(frozen=True)
class Skipped:
    """An object that is no FinetuneJob."""

    line: int
    kind: str
    name: str


@dataclass(frozen=True)
class FileFindings:
    """What one file holds."""

    path: str
    jobs: list[JobFindings]
    skipped: list[Skipped]

    def wire(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "path": self.path,
            "jobs": [
                {
                    "namespace": job.namespace,
                    "name": job.name,
                    "line": job.line,
                    "valid": not job.problems,
                    "problems": [{"line": item.line, **item.problem.wire()} for item in job.problems],
                }
                for job in self.jobs
            ],
            "skipped": [vars(item) for item in self.skipped],
        }


def findings(path: str) -> FileFindings:
    """What the file `path` holds. Raises CliError where it cannot be read as Kubernetes objects."""
    documents = read_located(path)
    jobs = [_job(document) for document in documents if is_finetune_job(document.value)]
    others = [document for document in documents if not is_finetune_job(document.value)]
    skipped = [Skipped(document.line, str(document.value["kind"]), name_of(document.value)) for document in others]
    return FileFindings(path, jobs, skipped)


def _job(document: Document) -> JobFindings:
    body = document.value
    found = [
        Located(line, problem(path, None, "the key stands twice, and kubectl takes the last", "Keep one."))
        for path, line in document.repeated
    ]
    found += [Located(document.line_of(item.path), item) for item in problems_of(body)]
    found.sort(key=lambda item: item.line)
    return JobFindings(document.line, namespace_of(body), name_of(body), found)
