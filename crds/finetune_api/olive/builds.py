"""Olive's `builds`: several pipelines over the passes of one configuration, of which a job is one."""

from __future__ import annotations

from finetune_api.olive import reasons
from finetune_api.olive.copying import Fields, leave_rest
from finetune_api.olive.notes import NoteKind
from finetune_api.olive.reading import Source

_DEFAULT = "_default"
# What of a build takes the engine's place.
_OF_ENGINE = ("host", "target", "evaluator", "search_strategy", "output_dir")


class NoSuchBuildError(ValueError):
    """A build was asked for that the configuration does not have."""


def take_build(source: Source, wanted: str | None, engine: Fields) -> Source | None:
    """The pipeline of the build `wanted`, or of the first; what the build says of `engine` takes its place there.

    None where there is no build. Raises NoSuchBuildError.
    """
    builds = source.fields()
    default = builds.pop(_DEFAULT, None)
    if wanted is not None and wanted not in builds:
        raise NoSuchBuildError(f"there is no build {wanted}; there are: {', '.join(builds) or 'none'}")
    if not builds:
        if default is not None:
            default.left_out("belongs to builds, of which there are none.")
        return None
    chosen = wanted or next(iter(builds))
    for name, other in builds.items():
        if name != chosen:
            other.note(NoteKind.DECIDE, f"a job is one build, this is {chosen}: import it again with --build {name}.")
    fields = _with_default(builds[chosen].fields(), default.fields() if default else {})
    for key in _OF_ENGINE:
        if key in fields:
            if key in engine:
                engine[key].left_out(f"the build {chosen} says it too, and counts.")
            engine[key] = fields.pop(key)
    pipeline = fields.pop("pipeline", None)
    leave_rest(fields, reasons.BUILD)
    return pipeline


def _with_default(own: Fields, default: Fields) -> Fields:
    for key in own.keys() & default.keys():
        default[key].left_out("the build says it itself.")
    return {**default, **own}
