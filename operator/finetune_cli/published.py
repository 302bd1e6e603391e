"""What a job in a cluster has published: its storage, opened with the keys that the job itself names."""

from __future__ import annotations

import argparse
import hashlib

from finetune_api import layout, rules
from finetune_api.job import JobSpec
from finetune_api.stage import Manifest
from finetune_cli.bucket import Bucket
from finetune_cli.connection import Cluster
from finetune_cli.errors import invalid, job_failed
from finetune_cli.jobfile import Body, name_of

TRAINING_LOG = "training_log.jsonl"


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """`--endpoint`, for a store that has another address from here."""
    parser.add_argument("--endpoint", metavar="URL", help="the store's address from here; default: the job's own")


def open_bucket(cluster: Cluster, job: Body, endpoint: str | None = None) -> Bucket:
    """The job's storage. Raises CliError where its spec is not valid or its Secret cannot be read."""
    storage = valid_spec(job).storage
    if endpoint:
        storage = storage.model_copy(update={"endpoint": endpoint})
    reference = storage.credentials_secret_ref
    if reference is None:
        # As in a pod without keys of its own: boto3 finds those of the environment.
        return Bucket(storage, {})
    return Bucket.by_secret(storage, cluster.secret(reference.name))


def valid_spec(job: Body) -> JobSpec:
    """The job's spec. Raises CliError where it is not valid."""
    spec, problems = rules.check(job["spec"])
    if spec is None:
        raise invalid(f"{name_of(job)} is not valid: {problems[0]}")
    return spec


def training_log(bucket: Bucket, root: str, key: str, digest: str) -> list[str] | None:
    """The training log that a stage published with its adapter, by lines; None where it has none."""
    text = bucket.read(layout.join(root, layout.manifest_path(key)))
    if hashlib.sha256(text).hexdigest() != digest:
        raise job_failed(f"the manifest of {key} in {root} is not the one that the job's status names")
    manifest = Manifest.model_validate_json(text)
    if TRAINING_LOG not in {file.path for file in manifest.files}:
        return None
    folder = layout.join(root, layout.attempt_path(key, manifest.attempt))
    return bucket.read(layout.join(folder, TRAINING_LOG)).decode(errors="replace").splitlines()
