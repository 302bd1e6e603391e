"""Image references, parsed: a registry and path components, so that `ghcr.io/team` is no prefix of `ghcr.io/team-x`."""

from __future__ import annotations

import re
from dataclasses import dataclass

DOCKER_HUB = "docker.io"
_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
# The grammar of github.com/distribution/reference.
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?\.?)+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](?::[0-9]{1,5})?"
)
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][-.A-Za-z0-9_]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")


@dataclass(frozen=True)
class Repository:
    """A registry (lower case) and the components of a path in it; an empty path is the whole registry."""

    registry: str
    path: tuple[str, ...]

    def holds(self, other: Repository) -> bool:
        """Whether `other` is this repository or lies below it."""
        return self.registry == other.registry and other.path[: len(self.path)] == self.path


@dataclass(frozen=True)
class Image:
    """A parsed image reference."""

    repository: Repository
    tag: str = ""
    digest: str = ""


def parse_image(reference: str) -> Image:
    """`[registry/]path[:tag][@digest]` as Docker reads it. Raises ValueError where it is none."""
    name, _, digest = reference.partition("@")
    if "@" in reference and not _DIGEST.fullmatch(digest):
        raise ValueError(f"{reference!r}: {digest!r} is no digest")
    head, _, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    if ":" in name.rpartition("/")[2] and not _TAG.fullmatch(tag):
        raise ValueError(f"{reference!r}: {tag!r} is no tag")
    registry, path = _split(f"{head}/{last}" if head else last)
    if not path:
        raise ValueError(f"{reference!r} names no repository")
    if registry == DOCKER_HUB and len(path) == 1:
        path = ("library", *path)
    return Image(Repository(registry, path), tag, digest)


def parse_repository(entry: str) -> Repository:
    """A policy's entry: a repository, or `registry.example.com` as a whole. Raises ValueError."""
    if "/" not in entry:
        if not _is_registry(entry):
            return parse_image(entry).repository
        registry, path = _split(f"{entry}/")
        return Repository(registry, path)
    return Repository(*_split(entry))


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    first, slash, rest = name.partition("/")
    registry, path = (first, rest) if slash and _is_registry(first) else (DOCKER_HUB, name)
    if not _REGISTRY.fullmatch(registry):
        raise ValueError(f"{registry!r} is no registry")
    components = tuple(path.split("/")) if path else ()
    for component in components:
        if not _COMPONENT.fullmatch(component):
            raise ValueError(f"{name!r}: {component!r} is no part of a repository's path")
    registry = registry.lower()
    return DOCKER_HUB if registry in _HUB_NAMES else registry, components


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()
