"""`pvc://claim/path` and `configMap://name/key`: what the pod has mounted, and nothing beside it."""

from __future__ import annotations

import difflib
from pathlib import Path

from finetune_api.problems import Problem, problem
from finetune_trainer.globs import has_wildcards, literal_folder, matching


class NotInVolumeError(Exception):
    """The file or folder is not there; `problem` says where and what is."""

    def __init__(self, found: Problem) -> None:
        super().__init__(str(found))
        self.problem = found


def is_volume(uri: str) -> bool:
    """Whether `uri` names something in a mounted volume."""
    return uri.startswith(("pvc://", "configMap://"))


def locate(uri: str, root: Path | None, field: str) -> Path:
    """The path of `uri` below the mounted sources `root`; `field` is the spec's, for messages.

    Links are followed, but not out of the volume. Raises NotInVolumeError.
    """
    kind, _, rest = uri.partition("://")
    name, _, inner = rest.partition("/")
    if root is None:
        raise NotInVolumeError(problem(field, uri, "this pod has no such volume", "Report this: it should have."))
    volume = root / kind.lower() / name
    path = volume / inner
    if ".." in Path(inner).parts or not path.resolve().is_relative_to(volume.resolve()):
        remedy = "Name a path inside it, without `..`."
        raise NotInVolumeError(problem(field, uri, "the path leaves the volume", remedy))
    if not path.exists():
        raise NotInVolumeError(problem(field, uri, "there is no such file", nearby(path.name, _names(path.parent))))
    return path


def expand(uri: str, root: Path | None, field: str) -> list[str]:
    """The URIs of the files that `uri` means: itself, or, where it has wildcards, those that there are, by name.

    Raises NotInVolumeError where there are none.
    """
    if not has_wildcards(uri):
        return [uri]
    folder_uri = literal_folder(uri)
    volume = "/".join(uri.split("/")[:3])
    folder = locate(f"{folder_uri}/" if folder_uri == volume else folder_uri, root, field)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    # A mounted ConfigMap's files are links into such folders, which hold each of them once more.
    names = sorted(name for name in names if not name.startswith(".."))
    found = matching(uri, (f"{folder_uri}/{name}" for name in names))
    if not found:
        raise NotInVolumeError(problem(field, uri, "no file has such a name", nearby(uri, names)))
    return found


def nearby(name: str, names: list[str]) -> str:
    """A remedy for the missing `name` among `names`: the nearest, else what there is."""
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"There: {', '.join(names[:8])}." if names else "There is nothing beside it either; check the path."


def _names(folder: Path) -> list[str]:
    """What lies in `folder`; not the links by which a mounted ConfigMap is replaced at once."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".."))
