"""`spec.publishTargets[]`: where else a finished job's artifacts go, beside its own storage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, Name, SecretKeyRef

RepoId = Annotated[
    str,
    StringConstraints(
        min_length=3,
        max_length=193,
        pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]{0,95}/[A-Za-z0-9][-._A-Za-z0-9]{0,95}$",
    ),
]
Branch = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*$")
]


class PublishTarget(Model):
    """A repository of a Hugging Face hub that an artifact is pushed to, in one commit, once the job has published it.

    Every goal is met by then. The commit names the artifact's manifest by its digest; an artifact that is there
    already is not pushed again.
    """

    name: Name = Field(description="The name by which messages refer to it.")
    type: Literal["HuggingFace"] = Field("HuggingFace", description="Kind of target. Only HuggingFace is known.")
    repo_id: RepoId = Field(description="The repository: `organization/name`. It is made where it is not there.")
    artifact: Literal["adapter", "model", "onnx"] = Field("model", description="Which of the job's artifacts.")
    branch: Branch = Field("main", description="The branch that the commit goes to; made where it is not there.")
    private: bool = Field(True, description="Whether a repository that is made is private; one that is there stays so.")
    token_secret_ref: SecretKeyRef = Field(
        description="The hub's token, with the right to write there, in a Secret of the job's namespace."
    )
