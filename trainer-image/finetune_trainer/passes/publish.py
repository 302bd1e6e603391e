"""Publish: writes a finished job's report, and names its artifacts in one manifest."""

from __future__ import annotations

import time
from hashlib import sha256

from finetune_api import layout
from finetune_api.keys import canonical
from finetune_api.outline import REPORT
from finetune_api.problems import problem
from finetune_api.publishing import PublishTarget
from finetune_api.stage import Artifact, Manifest, ModelManifest, Pins, Reason, StageResult
from finetune_trainer.attestation import statement
from finetune_trainer.errors import bad_input
from finetune_trainer.provenance import library_versions, now, usage
from finetune_trainer.workplace import Workplace


def answer(place: Workplace) -> StageResult:
    """Writes the model manifest, after looking at every artifact that it names.

    The same document always gives the same bytes, so a second attempt changes nothing. Raises StageFailure
    (ArtifactCorrupt) where an artifact is gone or is not the one that the document names.
    """
    document = place.document
    if document.pins is None:
        raise ValueError("a publish document has no pins")
    published = [_complete(place, artifact) for artifact in document.artifacts]
    if document.spec is not None:
        published.append(_report(place))
    provenance = _provenance(place, document.pins, published)
    manifest = ModelManifest(job=document.job, artifacts=published, pins=document.pins, provenance=provenance)
    path = layout.model_manifest_path(document.job.namespace, document.job.name, document.job.generation)
    body = canonical(manifest.wire())
    place.store.write_document(path, body)
    place.report.log(f"published {layout.join(document.storage.uri, path)}")
    _push(place, published)
    return StageResult(
        key=document.key,
        ok=True,
        digest=sha256(body).hexdigest(),
        attempt=document.attempt,
        bytes=sum(artifact.bytes for artifact in published),
        published=published,
    )


def _provenance(place: Workplace, pins: Pins, published: list[Artifact]) -> str | None:
    """Writes the statement about what is published, and returns its sha256; None without a spec to speak of."""
    document = place.document
    if document.spec is None:
        return None
    stages: dict[str, tuple[str, Manifest]] = {}
    wanted = {item.key: item.digest for item in [*document.stages, *published]}
    for key, digest in wanted.items():
        found = place.store.read_manifest(key, digest)
        if found:
            stages[key] = (found.digest, found.manifest)
    body = canonical(statement(document.job, document.spec, pins, published, stages, document.storage.uri))
    path = layout.provenance_path(document.job.namespace, document.job.name, document.job.generation)
    place.store.write_document(path, body)
    return sha256(body).hexdigest()


def _push(place: Workplace, published: list[Artifact]) -> None:
    """Pushes artifacts to where the spec wants them; what is there already is left alone."""
    spec = place.document.spec or {}
    targets = [PublishTarget.model_validate(item) for item in spec.get("publishTargets", [])]
    if not targets:
        return
    from finetune_trainer.hub_push import push  # noqa: PLC0415  (huggingface_hub takes long to import)

    artifacts = {artifact.name: artifact for artifact in published}
    for target in targets:
        place.report.progress(activity=f"pushing {target.artifact} to {target.name}"[:64])
        token = place.publish_tokens / target.name / "token" if place.publish_tokens else None
        commit = push(place.store, artifacts[target.artifact], target, token, place.document.job, place.scratch)
        place.report.log(f"{target.repo_id} has {target.artifact}: {commit or 'it was there already'}")


def _report(place: Workplace) -> Artifact:
    """The run's report, made where no earlier attempt has made it."""
    document = place.document
    committed = place.store.whole(document.key)
    if committed is None:
        from finetune_trainer.reporting.make import write_report  # noqa: PLC0415  (matplotlib, for this alone)

        started, clock = now(), time.monotonic()
        place.report.progress(activity="writing report")
        folder = place.scratch / "report"
        folder.mkdir(parents=True, exist_ok=True)
        write_report(place, folder)
        manifest = Manifest(
            stage=document.stage,
            type=document.type,
            key=document.key,
            attempt=document.attempt,
            job=document.job,
            image=document.image,
            inputs={item.stage: item for item in document.stages},
            pins=document.pins,
            files=place.store.upload(document.key, document.attempt, folder),
            versions=library_versions(),
            usage=usage(time.monotonic() - clock),
            started_at=started,
            finished_at=now(),
        )
        committed = place.store.commit(manifest, replace=place.store.read_manifest(document.key))
    return Artifact(
        name=REPORT,
        stage=document.stage,
        key=document.key,
        digest=committed.digest,
        attempt=committed.manifest.attempt,
        bytes=committed.size,
    )


def _complete(place: Workplace, artifact: Artifact) -> Artifact:
    """`artifact` with the attempt and size that its manifest gives."""
    found = place.store.whole(artifact.key)
    if found is None or found.digest != artifact.digest:
        message = "its manifest or files are gone" if found is None else f"its manifest is now {found.digest}"
        path = f"status.stages[name={artifact.stage}].digest"
        remedy = f"Delete {layout.manifest_path(artifact.key)}, and change spec.runId to have it made again."
        raise bad_input(Reason.ARTIFACT_CORRUPT, problem(path, artifact.digest, message, remedy))
    return artifact.model_copy(update={"attempt": found.manifest.attempt, "bytes": found.size})
