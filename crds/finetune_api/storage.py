"""`spec.storage`: the object storage that outputs are written to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import Model, SecretRef


class Storage(Model):
    """An S3 bucket, or a folder of one."""

    uri: Annotated[str, StringConstraints(max_length=512, pattern=r"^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/.*)?$")] = (
        Field(description="Where outputs go: `s3://bucket/prefix`.")
    )
    endpoint: Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[^/\s]+(/.*)?$")] | None = Field(
        None, description="The S3 server's URL, for servers other than AWS. Default: AWS."
    )
    region: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="The bucket's region. Default: us-east-1."
    )
    force_path_style: bool = Field(
        True, description="Put the bucket into the path, as most servers other than AWS want it."
    )
    credentials_secret_ref: SecretRef | None = Field(
        None,
        description="A Secret of the job's namespace with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if any, "
        "AWS_SESSION_TOKEN. Default: what the pod's service account is given.",
    )
