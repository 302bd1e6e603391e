"""What a container's environment and words become on this machine."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.client import CONFIG_MAPS, SECRETS
from finetune_local.node.environment import Localizer, NodeFacts, arguments, environment, expand, references
from finetune_local.node.values import MissingObjectError, Objects

ROOT = Path("/state/root")
FACTS = NodeFacts("local", "127.0.0.1", {"cpu": "8", "memory": "16Gi"})


def make_pod(container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p-0-abcde",
            "namespace": "team",
            "uid": "u1",
            "labels": {"app": "x"},
            "annotations": {"note": 'a"b'},
        },
        "spec": {"containers": [container], **spec},
    }


def localizer(*mounts: str, message: str | None = None, **spec: Any) -> Localizer:
    container: dict[str, Any] = {"name": "c", "volumeMounts": [{"name": "v", "mountPath": path} for path in mounts]}
    if message:
        container["terminationMessagePath"] = message
    return Localizer(make_pod(container, **spec), container, ROOT)


def resolve(env: list[dict[str, Any]], objects: Objects | None = None, **container: Any) -> dict[str, str]:
    whole = {"name": "c", "env": env, **container}
    pod = make_pod(whole)
    found = objects or Objects("team", {})
    return environment(pod, whole, found, FACTS, {"PATH": "/bin"}, Localizer(pod, whole, ROOT))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/scratch", "/state/root/scratch"),
        ("/scratch/home", "/state/root/scratch/home"),
        ("--in=/scratch/x", "--in=/state/root/scratch/x"),
        ("/a:/scratch:/b", "/a:/state/root/scratch:/b"),
        ('{"path":"/scratch/x"}', '{"path":"/state/root/scratch/x"}'),
        ("see /scratch.", "see /state/root/scratch."),
        ("/scratch2", "/scratch2"),
        ("/scratch.d/x", "/scratch.d/x"),
        ("/a/scratch", "/a/scratch"),
        ("s3://bucket/scratch/x", "s3://bucket/scratch/x"),
        ("~/scratch", "~/scratch"),
        ("/dev/termination-log", "/state/root/dev/termination-log"),
        ("/dev/null", "/dev/null"),
    ],
)
def test_mounted_paths_are_rewritten_where_they_are_paths(text: str, expected: str) -> None:
    assert localizer("/scratch").paths(text) == expected


def test_parents_that_exist_only_for_a_mount_are_rewritten_too() -> None:
    local = localizer("/var/run/finetune/sources/pvc/data")
    assert local.paths("/var/run/finetune/sources") == "/state/root/var/run/finetune/sources"
    assert local.paths("/var/run") == "/var/run"
    assert local.paths("/var/run/other") == "/var/run/other"


def test_inner_mounts_and_outer_ones_agree() -> None:
    local = localizer("/work", "/work/cache")
    assert local.paths("/work/cache/x /work/y") == "/state/root/work/cache/x /state/root/work/y"


def test_a_pods_dns_names_are_the_one_address() -> None:
    local = localizer(subdomain="svc")
    for name in ("j-0.svc", "j-0.svc.team", "j-0.svc.team.svc", "j-0.svc.team.svc.cluster.local"):
        assert local.names(f"tcp://{name}:29500") == "tcp://127.0.0.1:29500"
    for other in ("j-0.svc.other", "j-0.svcx", "a.b", "j-0.svc.example.org"):
        assert local.names(other) == other


def test_variables_expand_in_order_and_escapes_stay() -> None:
    env = [
        {"name": "BASE", "value": "/scratch"},
        {"name": "INNER", "value": "$(BASE)/in"},
        {"name": "LATER", "value": "$(NOT_YET) $$(BASE) $$"},
        {"name": "NOT_YET", "value": "1"},
    ]
    variables = resolve(env, volumeMounts=[{"name": "v", "mountPath": "/scratch"}])
    assert variables["INNER"] == "/state/root/scratch/in"
    assert variables["LATER"] == "$(NOT_YET) $(BASE) $"
    assert variables["PATH"] == "/bin"
    assert variables["HOSTNAME"] == "p-0-abcde"


def test_a_root_below_a_mount_path_is_not_rewritten_again() -> None:
    """A sandbox lies below /tmp as often as not, and /tmp is a usual mount."""
    container = {"name": "c", "env": [{"name": "T", "value": "/tmp/x"}, {"name": "U", "value": "$(T)/y"}]}
    container["volumeMounts"] = [{"name": "v", "mountPath": "/tmp"}]
    pod = make_pod(container)
    local = Localizer(pod, container, Path("/tmp/state/root"))
    variables = environment(pod, container, Objects("team", {}), FACTS, {"HOME": "/tmp/state/home"}, local)
    assert variables["U"] == "/tmp/state/root/tmp/x/y"
    assert variables["HOME"] == "/tmp/state/home"
    assert arguments(["ls", "$(U)", "/tmp/z"], variables, local) == [
        "ls",
        "/tmp/state/root/tmp/x/y",
        "/tmp/state/root/tmp/z",
    ]


def test_host_names_put_together_from_variables() -> None:
    container = {"name": "c", "env": [{"name": "J", "value": "job"}, {"name": "M", "value": "$(J)-0.svc:1"}]}
    pod = make_pod(container, subdomain="svc")
    local = Localizer(pod, container, ROOT)
    assert environment(pod, container, Objects("team", {}), FACTS, {}, local)["M"] == "127.0.0.1:1"


def test_secrets_config_maps_and_fields() -> None:
    secret = {"kind": "Secret", "metadata": {"resourceVersion": "3"}, "data": {"k": base64.b64encode(b"s3").decode()}}
    config = {"kind": "ConfigMap", "metadata": {"resourceVersion": "4"}, "data": {"a": "1", "b": "2"}}
    objects = Objects("team", {(SECRETS, "s"): secret, (CONFIG_MAPS, "m"): config, (SECRETS, "none"): None})
    env: list[dict[str, Any]] = [
        {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "a"}}},
        {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
        {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "MI", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]
    sources = [{"configMapRef": {"name": "m"}, "prefix": "M_"}, {"secretRef": {"name": "none", "optional": True}}]
    container = {"name": "c", "env": env, "envFrom": sources}
    assert references(container) == {(SECRETS, "s"), (SECRETS, "none"), (CONFIG_MAPS, "m")}
    variables = resolve(env, objects, envFrom=sources, resources={"limits": {"cpu": "1500m"}})
    expected = {"K": "s3", "A": "1", "NS": "team", "L": "x", "CPU": "2", "MI": "16384", "M_a": "1", "M_b": "2"}
    assert {name: variables[name] for name in expected} == expected
    assert "O" not in variables


def test_what_is_missing_is_named_as_kubernetes_does() -> None:
    reference = [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    with pytest.raises(MissingObjectError, match=r'^secret "s" not found$'):
        resolve(reference, Objects("team", {(SECRETS, "s"): None}))
    empty = {"kind": "Secret", "metadata": {"resourceVersion": "3"}}
    with pytest.raises(MissingObjectError, match=r"^couldn't find key k in Secret team/s$") as caught:
        resolve(reference, Objects("team", {(SECRETS, "s"): empty}))
    assert caught.value.version == "3"


def test_an_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"spec\.nonsense"):
        resolve([{"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.nonsense"}}}])


@given(st.text(alphabet="$()AB_ x", max_size=30), st.dictionaries(st.sampled_from(["A", "B"]), st.text(max_size=5)))
def test_expansion_touches_references_only(text: str, variables: dict[str, str]) -> None:
    result = expand(text, variables)
    if "$" not in text:
        assert result == text
    if "$(" not in text and "$$" not in text:
        assert result == text


@given(st.text(alphabet="/ab.-:= ", max_size=40))
def test_localizing_is_undone_by_removing_the_root(text: str) -> None:
    assert localizer("/a/b", "/a/b/a").paths(text).replace(str(ROOT), "") == text
