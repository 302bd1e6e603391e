"""Image references as registries and paths, never as strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.policy_images import Image, Repository, parse_image, parse_repository

REGISTRIES = st.sampled_from(["ghcr.io", "localhost", "localhost:5000", "registry.example.com:8443", "10.0.0.7:5000"])
COMPONENTS = st.lists(st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,4})?", fullmatch=True), min_size=1, max_size=4)
TAGS = st.from_regex(r"[A-Za-z0-9_][-.A-Za-z0-9_]{0,20}", fullmatch=True)
DIGEST = "sha256:" + "a" * 64


@given(REGISTRIES, COMPONENTS, st.none() | TAGS, st.sampled_from(["", DIGEST]))
def test_a_reference_is_its_parts(registry: str, path: list[str], tag: str | None, digest: str) -> None:
    text = "/".join([registry, *path]) + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    assert parse_image(text) == Image(Repository(registry, tuple(path)), tag or "", digest)


@given(REGISTRIES, COMPONENTS, st.integers(0, 4), st.none() | TAGS)
def test_a_repository_holds_what_lies_below_it_with_any_tag(
    registry: str, path: list[str], depth: int, tag: str | None
) -> None:
    image = parse_image("/".join([registry, *path]) + (f":{tag}" if tag else "")).repository
    above = path[:depth]
    if above or "." in registry or ":" in registry or registry == "localhost":
        assert parse_repository("/".join([registry, *above])).holds(image)
    longer = [*path[:-1], path[-1] + "x"]
    assert not parse_repository("/".join([registry, *longer])).holds(image)
    assert not parse_repository("/".join([registry, *path, "below"])).holds(image)
    assert not parse_repository("/".join(["other.example.com", *path])).holds(image)


@given(st.text(max_size=60))
def test_any_text_is_an_image_or_none(text: str) -> None:
    try:
        image = parse_image(text)
    except ValueError:
        return
    assert image.repository.path
    assert parse_repository("/".join([image.repository.registry, *image.repository.path])).holds(image.repository)


@pytest.mark.parametrize(
    ("text", "registry", "path"),
    [
        ("trainer", "docker.io", "library/trainer"),
        ("trainer:1", "docker.io", "library/trainer"),
        ("team/trainer", "docker.io", "team/trainer"),
        ("docker.io/trainer", "docker.io", "library/trainer"),
        ("index.docker.io/team/trainer", "docker.io", "team/trainer"),
        ("GHCR.io/team/trainer", "ghcr.io", "team/trainer"),
        ("localhost/trainer", "localhost", "trainer"),
        ("host:5000/trainer:5000", "host:5000", "trainer"),
        ("[fd00::1]:5000/trainer", "[fd00::1]:5000", "trainer"),
    ],
)
def test_short_names_are_docker_hubs(text: str, registry: str, path: str) -> None:
    assert parse_image(text).repository == Repository(registry, tuple(path.split("/")))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a//b",
        "ghcr.io/",
        "ghcr.io/team/../evil",
        "Team/trainer/",
        "ghcr.io/team:1/x",
        "a@sha256:abc",
        "a:",
        "a@",
        "ghcr.io/team/trainer ",
        "ghcr.io/te am",
        "http://ghcr.io/team",
        "ghcr.io\n/team",
        "user@ghcr.io/team",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        parse_image(text)


@pytest.mark.parametrize(
    ("entry", "image", "holds"),
    [
        ("ghcr.io/team", "ghcr.io/team/trainer:1", True),
        ("ghcr.io/team", "ghcr.io/team@" + DIGEST, True),
        ("ghcr.io/team", "ghcr.io/team-evil/trainer", False),
        ("ghcr.io/team", "ghcr.io.evil.com/team/trainer", False),
        ("ghcr.io/team", "evil.com/ghcr.io/team/trainer", False),
        ("ghcr.io", "ghcr.io/anybody/x", True),
        ("ghcr.io", "ghcr.io.evil.com/x/y", False),
        ("localhost:5000", "localhost:5000/x", True),
        ("trainer", "trainer:2", True),
        ("trainer", "docker.io/library/trainer", True),
        ("trainer", "team/trainer", False),
        ("docker.io/team", "team/trainer", True),
        ("docker.io", "trainer", True),
    ],
)
def test_what_an_entry_holds(entry: str, image: str, holds: bool) -> None:
    assert parse_repository(entry).holds(parse_image(image).repository) is holds
