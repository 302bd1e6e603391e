"""Where an artifact comes from: manifests followed from a stage back to data and base model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.stage import Manifest, Pins
from finetune_cli.errors import job_failed

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Origin:
    """A stage's output, or something that was given: its name, facts about it, and what it was made from."""

    name: str
    facts: tuple[str, ...] = ()
    made_from: tuple[Origin, ...] = field(default_factory=tuple)

    def wire(self) -> dict[str, object]:
        """For programs."""
        return {
            "name": self.name,
            "facts": list(self.facts),
            "madeFrom": [origin.wire() for origin in self.made_from],
        }


def origin(read: Read, key: str, digest: str, uri: str = "") -> Origin:
    """The output of the stage with `key`, whose manifest has the sha256 `digest`.

    `read` returns the object at a path below the store's root; `uri` is what messages call the first one. Raises
    CliError where a manifest is not the one that it should be.
    """
    path = layout.manifest_path(key)
    text, uri = read(path), uri or path
    if hashlib.sha256(text).hexdigest() != digest:
        raise job_failed(f"{uri} is not the manifest that was built on: its sha256 is not {digest}")
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise job_failed(f"{uri} is no manifest: {error.errors()[0]['msg']}") from error
    below = [origin(read, item.key, item.digest) for item in manifest.inputs.values()]
    return Origin(
        f"{manifest.stage} ({manifest.type})",
        (
            f"key {key[:12]}",
            f"manifest sha256 {digest[:12]}",
            f"{len(manifest.files)} files",
            f"made {manifest.finished_at} by {manifest.job.namespace}/{manifest.job.name}, "
            f"generation {manifest.job.generation}, attempt {manifest.attempt}",
        ),
        (*below, *given(manifest.pins)),
    )


def given(pins: Pins | None) -> list[Origin]:
    """The base model and the data sets that `pins` hold fast."""
    if pins is None:
        return []
    model = pins.model
    facts = [f"digest {model.digest[:12]}", *([f"revision {model.revision}"] if model.revision else [])]
    origins = [Origin(f"base model {model.architecture}".rstrip(), tuple(facts))]
    for name, data in pins.data.items():
        origins.append(Origin(f"data {name}", (f"digest {data.digest[:12]}", f"{data.rows} rows")))
    return origins
