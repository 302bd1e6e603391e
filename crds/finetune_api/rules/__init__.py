"""Every rule that a spec must keep, found out at once: the schema's, and those between fields.

Each rule names its path and what to write instead. What a schema or CEL can say is in the CRD too
(`finetune_api.crd`), so that the API server refuses it; here it is said again for those who ask offline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.job import JobSpec
from finetune_api.problems import Problem, problem
from finetune_api.rules import data, evaluators, model, names, passes, storage, systems, training
from finetune_api.schema_problems import schema_problems

# A stage document holds the spec and once more its data configs, escaped as JSON within JSON at the worst.
MAX_SPEC_BYTES = 32 * 1024


def check(spec: Mapping[str, Any]) -> tuple[JobSpec | None, list[Problem]]:
    """`spec` as its type, and all that is wrong with it.

    The spec is None where its shape is wrong, since the rules between fields cannot be asked then.
    """
    try:
        # As the API server reads it: one spelling, since Python's, which is Olive's too, would be dropped there; and
        # no conversion, since "64" is no integer there.
        parsed = JobSpec.model_validate(spec, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, schema_problems(error, JobSpec, spec, "spec")
    return parsed, [found for rule in RULES for found in rule(parsed)]


def size(spec: JobSpec) -> Iterator[Problem]:
    """A spec is small enough for a pod's environment, which Linux bounds at 128 KiB for each variable."""
    length = len(spec.model_dump_json(by_alias=True, exclude_none=True).encode())
    if length > MAX_SPEC_BYTES:
        yield problem(
            "spec",
            f"{length} bytes",
            f"larger than {MAX_SPEC_BYTES} bytes",
            "Name fewer files, or shorten templates.",
        )


Rule = Callable[[JobSpec], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    *names.RULES,
    *model.RULES,
    *passes.RULES,
    *data.RULES,
    *training.RULES,
    *evaluators.RULES,
    *storage.RULES,
    *systems.RULES,
    size,
)
