"""Rules of storage and of what is published beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from finetune_api.job import JobSpec
from finetune_api.passes import ADAPTER_PASSES
from finetune_api.problems import Problem, problem

# What the API server itself goes by in most clusters.
API_AUDIENCE = "kubernetes.default"


def one_identity(spec: JobSpec) -> Iterator[Problem]:
    """The store's keys come from one place, and roles are asked for where there are any."""
    storage = spec.storage
    if storage.web_identity and storage.credentials_secret_ref:
        yield problem(
            "spec.storage.webIdentity",
            storage.web_identity.role_arn,
            "credentialsSecretRef beside it",
            "Keep the one that gives the keys.",
        )
    if storage.sts_endpoint and not (storage.web_identity or storage.assume_role):
        remedy = "Remove it, or give webIdentity or assumeRole."
        yield problem("spec.storage.stsEndpoint", storage.sts_endpoint, "no role is asked for there", remedy)
    if storage.web_identity and API_AUDIENCE in storage.web_identity.audience:
        yield problem(
            "spec.storage.webIdentity.audience",
            storage.web_identity.audience,
            "a token for the API server, which no stage's pod gets",
            "Name the storage's identity provider, such as sts.amazonaws.com.",
        )


def encryption(spec: JobSpec) -> Iterator[Problem]:
    """Only the KMS has keys."""
    found = spec.storage.encryption
    if found and found.type == "AES256":
        given = {"kmsKeyId": found.kms_key_id, "bucketKey": "true" if found.bucket_key else None}
        for name, value in given.items():
            if value is not None:
                message, remedy = "AES256 knows no such key", "Remove it, or use type aws:kms."
                yield problem(f"spec.storage.encryption.{name}", value, message, remedy)


def publish_targets(spec: JobSpec) -> Iterator[Problem]:
    """What is pushed is made, and no branch is pushed to twice."""
    types = {item.type for item in spec.passes}
    made = {
        "adapter": bool(types & set(ADAPTER_PASSES)),
        "model": "MergeAdapterWeights" in types,
        "onnx": "ModelBuilder" in types,
    }
    there = ", ".join(name for name, is_made in made.items() if is_made)
    for index, target in enumerate(spec.publish_targets):
        if not made[target.artifact]:
            path = f"spec.publishTargets[{index}].artifact"
            yield problem(path, target.artifact, "no pass of this job makes it", f"There: {there}.")
    branches = Counter((target.repo_id, target.branch) for target in spec.publish_targets)
    for (repository, branch), count in branches.items():
        if count > 1:
            message, remedy = f"{count} targets push to its branch {branch}", "Give each its own branch or repository."
            yield problem("spec.publishTargets", repository, message, remedy)


RULES = (one_identity, encryption, publish_targets)
