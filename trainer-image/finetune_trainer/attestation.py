"""How published artifacts came to be, as an in-toto statement with SLSA's provenance, version 1.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.1/provenance. It is
not signed: who signs is the platform's choice (docs/artifacts.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api import API_VERSION, layout
from finetune_api.stage import Artifact, JobRef, Manifest, Pins

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = f"https://{API_VERSION}/FinetuneJob"
BUILDER = "https://finetune.dev/finetune-operator"
# A pin is a digest over many files, which is none of the algorithms that in-toto knows by name.
PIN = "finetunePin"


def statement(
    job: JobRef,
    spec: Mapping[str, Any],
    pins: Pins,
    artifacts: Iterable[Artifact],
    stages: Mapping[str, tuple[str, Manifest]],
    uri: str,
) -> dict[str, Any]:
    """The statement about `artifacts`. `stages` holds, by content key, each stage's digest and manifest.

    `uri` is the storage's. The same run always gives the same statement, whichever attempt publishes it.
    """
    ordered = sorted(stages.values(), key=lambda item: (item[1].started_at, item[1].stage))
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": f"{artifact.name}/{file.path}", "digest": {"sha256": file.sha256}}
            for artifact in artifacts
            for file in stages[artifact.key][1].files
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"spec": dict(spec)},
                "internalParameters": {
                    "job": job.wire(),
                    "stages": [_stage(manifest) for _, manifest in ordered],
                },
                "resolvedDependencies": _dependencies(spec, pins, [manifest for _, manifest in ordered]),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": _versions(manifest for _, manifest in ordered)},
                "metadata": {
                    "invocationId": f"{job.uid}/{job.generation}",
                    "startedOn": min((manifest.started_at for _, manifest in ordered), default=""),
                    "finishedOn": max((manifest.finished_at for _, manifest in ordered), default=""),
                },
                "byproducts": [
                    {
                        "name": manifest.stage,
                        "uri": layout.join(uri, layout.manifest_path(manifest.key)),
                        "digest": {"sha256": digest},
                    }
                    for digest, manifest in ordered
                ],
            },
        },
    }


def _stage(manifest: Manifest) -> dict[str, Any]:
    said = manifest.wire()
    names = ("stage", "type", "key", "attempt", "config", "inputs", "image", "gpus", "startedAt", "finishedAt")
    return {name: said[name] for name in names if name in said}


def _dependencies(spec: Mapping[str, Any], pins: Pins, manifests: list[Manifest]) -> list[dict[str, Any]]:
    """The base model, the data and the images: what the artifacts were made from."""
    model = spec["inputModel"]["modelPath"]
    digest = {PIN: pins.model.digest, **({"gitCommit": pins.model.revision} if pins.model.revision else {})}
    found = [{"name": "inputModel", "uri": model if "://" in model else f"pkg:huggingface/{model}", "digest": digest}]
    for config in spec.get("dataConfigs", []):
        pin = pins.data.get(config["name"])
        if pin:
            found.append({"name": f"data/{config['name']}", "digest": {PIN: pin.digest}})
    for image in sorted({manifest.image for manifest in manifests if manifest.image}):
        _, found_digest, sha256 = image.partition("@sha256:")
        found.append(
            {"name": "image", "uri": f"docker://{image}", **({"digest": {"sha256": sha256}} if found_digest else {})}
        )
    return found


def _versions(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Every library's version; of several, all of them."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, version in manifest.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}
