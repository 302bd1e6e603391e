"""`spec.storage`: the object storage that outputs are written to."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import ConfigMapKeyRef, Model, SecretRef

Url = Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[^/\s]+(/.*)?$")]
# A role as AWS, MinIO and Ceph write it: arn:partition:iam:region:account:path, where all but the first may be empty.
Arn = Annotated[str, StringConstraints(min_length=8, max_length=512, pattern=r"^arn:[-a-z0-9]*:iam:[^\s]*$")]
# Who a token is for. One for the API server itself would be a key to the cluster, which no stage's pod has.
Audience = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._:/A-Za-z0-9]+$")]
KmsKey = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[-_:/A-Za-z0-9]+$")]
DEFAULT_AUDIENCE = "sts.amazonaws.com"


class WebIdentity(Model):
    """Keys that are given for the service account's own token: AssumeRoleWithWebIdentity."""

    role_arn: Arn | None = Field(
        None, description="The role to take. Default: none is asked for; MinIO then goes by the token's claims."
    )
    audience: Audience = Field(
        DEFAULT_AUDIENCE, description="Who the token is for; the server's identity provider must expect it."
    )


class AssumedRole(Model):
    """A role that is taken with the keys that storage gives: AssumeRole."""

    role_arn: Arn = Field(description="The role to take.")
    external_id: Annotated[str, StringConstraints(min_length=2, max_length=256, pattern=r"^[-+=,.@:/\w]+$")] | None = (
        Field(None, description="The id that the role's trust policy asks for. Default: none.")
    )


class Encryption(Model):
    """How the server encrypts what is put there."""

    cel: ClassVar = (
        (
            "!has(self.type) || self.type != 'AES256' || !has(self.kmsKeyId)",
            "kmsKeyId needs one of the KMS's types, not AES256",
            ".kmsKeyId",
        ),
        (
            "!has(self.type) || self.type != 'AES256' || !has(self.bucketKey) || !self.bucketKey",
            "bucketKey needs one of the KMS's types, not AES256",
            ".bucketKey",
        ),
    )

    type: Literal["AES256", "aws:kms", "aws:kms:dsse"] = Field(
        "aws:kms", description="x-amz-server-side-encryption of every object: the server's own key, or the KMS's."
    )
    kms_key_id: KmsKey | None = Field(
        None, description="The KMS's key, by id, ARN or alias. Default: the account's key for S3."
    )
    bucket_key: bool = Field(
        False, description="One data key for the bucket's objects (S3 Bucket Keys): fewer requests to the KMS."
    )


class Storage(Model):
    """An S3 bucket, or a folder of one."""

    cel: ClassVar = (
        (
            "!has(self.webIdentity) || !has(self.credentialsSecretRef)",
            "give webIdentity or credentialsSecretRef: the keys come from one place",
            ".webIdentity",
        ),
        (
            "!has(self.stsEndpoint) || has(self.webIdentity) || has(self.assumeRole)",
            "give webIdentity or assumeRole beside stsEndpoint",
            ".stsEndpoint",
        ),
    )

    uri: Annotated[str, StringConstraints(max_length=512, pattern=r"^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/.*)?$")] = (
        Field(description="Where outputs go: `s3://bucket/prefix`.")
    )
    endpoint: Url | None = Field(None, description="The S3 server's URL, for servers other than AWS. Default: AWS.")
    region: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="The bucket's region. Default: us-east-1."
    )
    force_path_style: bool = Field(
        True, description="Put the bucket into the path, as most servers other than AWS want it."
    )
    credentials_secret_ref: SecretRef | None = Field(
        None,
        description="A Secret of the job's namespace with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if any, "
        "AWS_SESSION_TOKEN, which is read again as the Secret changes. Default: what the pod's service account is "
        "given.",
    )
    web_identity: WebIdentity | None = Field(
        None,
        description="Keys for the token of the pods' service account (systems[].serviceAccountName), instead of a "
        "Secret. Where the cluster's own webhook gives pods their identity (EKS), leave it out. Default: none.",
    )
    assume_role: AssumedRole | None = Field(
        None, description="A role to take with those keys, such as another account's. Default: none."
    )
    sts_endpoint: Url | None = Field(
        None,
        description="Where webIdentity and assumeRole are asked for. Default: endpoint, as MinIO has it, else AWS's.",
    )
    ca_bundle_ref: ConfigMapKeyRef | None = Field(
        None,
        description="The certificates that the servers at endpoint and stsEndpoint are checked against (PEM), in a "
        "ConfigMap of the job's namespace. Default: the platform's, else the image's own.",
    )
    encryption: Encryption | None = Field(
        None, description="How the server encrypts what is put there. Default: as the bucket says."
    )

    @property
    def sts_url(self) -> str | None:
        """Where roles are asked for; None: AWS, by region."""
        return self.sts_endpoint or self.endpoint
