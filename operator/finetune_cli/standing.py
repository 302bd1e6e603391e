"""The status of a FinetuneJob, as an operator of any later version may have written it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.status import Status
from finetune_cli.errors import environment


def status_of(job: Mapping[str, Any]) -> Status:
    """The status of `job`, an object as the server has it; fields that are newer than this program are left out.

    Raises CliError where it holds a value that this program does not know.
    """
    try:
        return Status.model_validate(job.get("status") or {}, extra="ignore")
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise environment(
            f"status.{place} of {job['metadata']['name']}: {error.errors()[0]['msg']}. The operator is newer than this "
            "`finetune`: install the same version; `kubectl get ftj -o yaml` shows the status meanwhile"
        ) from error
