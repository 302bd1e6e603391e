"""A pod's volumes and mounts as directories and links."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from finetune_local.client import CLAIMS, CONFIG_MAPS, SECRETS
from finetune_local.node.environment import NodeFacts
from finetune_local.node.sandbox import Folders, Sandbox, leftovers, sweep
from finetune_local.node.values import MissingObjectError, Objects, TokenOf
from finetune_local.node.volumes import VolumeError, Volumes, mount, references, tokens

POD = {
    "metadata": {"name": "p", "namespace": "team", "uid": "u", "labels": {"b": "2", "a": "1"}},
    "spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "1Gi"}}}]},
}
SECRET = {"kind": "Secret", "metadata": {"resourceVersion": "1"}, "data": {"k": base64.b64encode(b"\xff1").decode()}}
CONFIG = {"kind": "ConfigMap", "metadata": {"resourceVersion": "1"}, "data": {"a": "1", "b": "2"}}
OBJECTS = Objects(
    "team",
    {(SECRETS, "s"): SECRET, (CONFIG_MAPS, "m"): CONFIG, (CLAIMS, "data"): {"metadata": {}}, (SECRETS, "no"): None},
)


UIDS = {"kept": "11111111-aaaa-4aaa-8aaa-000000000001", "gone": "22222222-aaaa-4aaa-8aaa-000000000002"}


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(POD, tmp_path / "volumes", tmp_path / "claims", NodeFacts())


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_secrets_become_files_with_their_mode(volumes: Volumes) -> None:
    folder = volumes.make({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}, OBJECTS)
    assert files(folder) == {"k": b"\xff1"}
    assert (folder / "k").stat().st_mode & 0o777 == 0o400


def test_items_choose_keys_and_paths(volumes: Volumes) -> None:
    source = {"name": "m", "items": [{"key": "b", "path": "deep/er", "mode": 0o600}]}
    folder = volumes.make({"name": "v", "configMap": source}, OBJECTS)
    assert files(folder) == {"deep/er": b"2"}
    assert (folder / "deep/er").stat().st_mode & 0o777 == 0o600


def test_making_a_volume_again_replaces_read_only_files(volumes: Volumes) -> None:
    source = {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}
    volumes.make(source, OBJECTS)
    assert files(volumes.make(source, OBJECTS)) == {"k": b"\xff1"}


def test_projected_and_downward(volumes: Volumes) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {
            "path": "memory",
            "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"},
        },
    ]
    sources = [{"secret": {"name": "s"}}, {"configMap": {"name": "m"}}, {"downwardAPI": {"items": items}}]
    volume = {"name": "v", "projected": {"sources": sources}}
    assert references({"spec": {"volumes": [volume]}}) == {(SECRETS, "s"), (CONFIG_MAPS, "m")}
    assert files(volumes.make(volume, OBJECTS)) == {
        "k": b"\xff1",
        "a": b"1",
        "b": b"2",
        "labels": b'a="1"\nb="2"',
        "memory": b"1024",
    }


def test_optional_sources_may_be_missing_and_others_not(volumes: Volumes) -> None:
    assert files(volumes.make({"name": "v", "secret": {"secretName": "no", "optional": True}}, OBJECTS)) == {}
    with pytest.raises(MissingObjectError, match='secret "no" not found'):
        volumes.make({"name": "w", "secret": {"secretName": "no"}}, OBJECTS)
    missing = {"secretName": "s", "items": [{"key": "x", "path": "x"}]}
    with pytest.raises(MissingObjectError, match="references non-existent secret key: x"):
        volumes.make({"name": "x", "secret": missing}, OBJECTS)


def test_claims_outlive_pods_and_must_exist(volumes: Volumes, tmp_path: Path) -> None:
    folder = volumes.make({"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, OBJECTS)
    assert folder == tmp_path / "claims" / "team" / "data"
    with pytest.raises(MissingObjectError, match='persistentvolumeclaim "other" not found'):
        volumes.make({"name": "w", "persistentVolumeClaim": {"claimName": "other"}}, OBJECTS)


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "v", "hostPath": {"path": "/"}},
        {"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}},
        {"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "../../out"}]}},
    ],
)
def test_what_is_not_offered_is_refused(volumes: Volumes, volume: dict[str, Any]) -> None:
    with pytest.raises(VolumeError):
        volumes.make(volume, OBJECTS)


def test_a_token_of_the_pods_account_is_for_its_audience(volumes: Volumes) -> None:
    source = {"serviceAccountToken": {"path": "token", "audience": "sts", "expirationSeconds": 900}}
    volume = {"name": "v", "projected": {"defaultMode": 0o440, "sources": [source]}}
    wanted = TokenOf("default", "sts", 900)
    assert tokens({"spec": {"volumes": [volume]}}) == {wanted}
    named = {"spec": {"serviceAccountName": "trainer", "volumes": [volume]}}
    assert tokens(named) == {TokenOf("trainer", "sts", 900)}
    folder = volumes.make(volume, Objects("team", {}, {wanted: "the.token"}))
    assert files(folder) == {"token": b"the.token"}
    assert (folder / "token").stat().st_mode & 0o777 == 0o440
    with pytest.raises(MissingObjectError, match='serviceaccount "default" not found'):
        volumes.make(volume, OBJECTS)


def test_inner_mounts_lie_in_outer_ones(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    outer.mkdir()
    inner.mkdir()
    mounts = [{"name": "inner", "mountPath": "/work/cache"}, {"name": "outer", "mountPath": "/work/"}]
    for _ in range(2):
        mount(tmp_path / "root", {"volumeMounts": mounts}, {"outer": outer, "inner": inner})
    (tmp_path / "root/work/cache/x").write_text("1")
    assert files(inner) == {"x": b"1"}


def test_sub_paths_stay_in_their_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mount(tmp_path / "root", {"volumeMounts": [{"name": "v", "mountPath": "/d", "subPath": "a/b"}]}, {"v": volume})
    (tmp_path / "root/d/x").write_text("1")
    assert files(volume) == {"a/b/x": b"1"}
    with pytest.raises(VolumeError, match="leaves the volume"):
        mount(tmp_path / "root", {"volumeMounts": [{"name": "v", "mountPath": "/e", "subPath": "../x"}]}, {"v": volume})


def test_a_new_node_sweeps_what_gone_pods_left(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "pods", tmp_path / "claims", tmp_path / "logs")
    pods = [{**POD, "metadata": {**POD["metadata"], "name": name, "uid": uid}} for name, uid in UIDS.items()]
    for pod in pods:
        (folders.logs / "team" / pod["metadata"]["name"] / pod["metadata"]["uid"]).mkdir(parents=True)
        sandbox = Sandbox(folders, pod, NodeFacts(), "family")
        sandbox.make_volume({"name": "v", "emptyDir": {}}, OBJECTS)
    left = leftovers(folders)
    assert len(left) == 4
    sweep(left, {UIDS["kept"]})
    assert [path.is_dir() for path in left].count(True) == 2
    assert (folders.logs / "team/kept" / UIDS["kept"]).is_dir()
