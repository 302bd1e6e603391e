"""What policies forbid, list by list and limit by limit: allowed, or refused in words that name what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.base import SecretKeyRef, SecretRef
from finetune_api.policy import Allowed
from finetune_api.rules import check
from finetune_api.structural import structural
from finetune_operator.policy import Tenancy
from finetune_operator.policy_rules import LISTS, devices, violations

from ..api.specs import Spec, changed, job_spec
from .test_policy import policy, spec_of

Body = dict[str, Any]
STORAGE = "http://minio.minio.svc:9000"


def plain_spec(**fields: Any) -> Spec:
    """A spec whose storage nobody minds."""
    return changed(job_spec(**fields), "storage.endpoint", STORAGE)


def system(**fields: Any) -> Spec:
    return plain_spec(systems=[{"name": "gpu", **fields}])


def said(spec: Spec, *policies: Any, allowed_hosts: tuple[str, ...] = ()) -> list[str]:
    return [str(found) for found in violations(Tenancy(tuple(policies)), spec_of(spec), allowed_hosts)]


def endpoint(url: str) -> Spec:
    return changed(plain_spec(), "storage.endpoint", url)


HUB = {"modelPath": "microsoft/Phi-3-mini-4k-instruct"}
TOKEN = {**HUB, "tokenSecretRef": {"name": "hub", "key": "token"}}

# A list, entries of it, a spec that keeps it, one that does not, and what is said of that.
TABLE: list[tuple[str, list[str], Spec, Spec, str]] = [
    (
        "images",
        ["ghcr.io/team", "quay.io"],
        system(image="ghcr.io/team/trainer:2@sha256:" + "a" * 64),
        system(image="ghcr.io/team-evil/trainer:2"),
        "spec.systems[0].image (ghcr.io/team-evil/trainer:2): FinetunePolicy team does not allow this image. "
        "Allowed: ghcr.io/team, quay.io.",
    ),
    (
        "images",
        ["ghcr.io/team"],
        system(),
        system(image="ghcr.io/team/../evil"),
        "spec.systems[0].image (ghcr.io/team/../evil): FinetunePolicy team does not allow this image. "
        "Allowed: ghcr.io/team.",
    ),
    (
        "serviceAccounts",
        ["train-*"],
        system(serviceAccountName="train-big"),
        system(serviceAccountName="admin"),
        "spec.systems[0].serviceAccountName (admin): FinetunePolicy team does not allow this service account. "
        "Allowed: train-*.",
    ),
    (
        "serviceAccounts",
        [],
        system(serviceAccountName="default"),
        system(serviceAccountName="defaults"),
        "spec.systems[0].serviceAccountName (defaults): FinetunePolicy team does not allow this service account. "
        "It allows none.",
    ),
    (
        "priorityClasses",
        ["batch"],
        system(priorityClassName="batch"),
        system(priorityClassName="system-node-critical"),
        "spec.systems[0].priorityClassName (system-node-critical): FinetunePolicy team does not allow this priority "
        "class. Allowed: batch.",
    ),
    (
        "runtimeClasses",
        ["nvidia"],
        system(runtimeClassName="nvidia"),
        system(runtimeClassName="nvidia2"),
        "spec.systems[0].runtimeClassName (nvidia2): FinetunePolicy team does not allow this runtime class. "
        "Allowed: nvidia.",
    ),
    (
        "nodeSelectorKeys",
        ["gpu", "topology.kubernetes.io/zone"],
        system(nodeSelector={"gpu": "h200"}),
        system(nodeSelector={"node-role.kubernetes.io/control-plane": ""}),
        "spec.systems[0].nodeSelector (node-role.kubernetes.io/control-plane): FinetunePolicy team does not allow this "
        "label of nodes. Allowed: gpu, topology.kubernetes.io/zone.",
    ),
    (
        "tolerationKeys",
        ["nvidia.com/gpu"],
        system(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]),
        system(tolerations=[{"key": "nvidia.com/gpu"}, {"operator": "Exists"}]),
        "spec.systems[0].tolerations[1].key (*): FinetunePolicy team does not allow this toleration. "
        "Allowed: nvidia.com/gpu.",
    ),
    (
        "tolerationKeys",
        ["*"],
        system(tolerations=[{"operator": "Exists"}]),
        system(tolerations=[{"key": "spot"}]),
        "spec.systems[0].tolerations[0].key (spot): FinetunePolicy team does not allow this toleration. Allowed: *.",
    ),
    (
        "pvcs",
        ["models"],
        plain_spec(inputModel={"modelPath": "pvc://models/phi3"}),
        plain_spec(inputModel={"modelPath": "pvc://other-teams/phi3"}),
        "spec.inputModel.modelPath (pvc://other-teams/phi3): FinetunePolicy team does not allow this "
        "PersistentVolumeClaim. Allowed: models.",
    ),
    (
        "pvcs",
        ["data-*"],
        changed(plain_spec(), "dataConfigs[0].loadDatasetConfig.dataFiles", ["pvc://data-1/a.jsonl"]),
        changed(plain_spec(), "dataConfigs[0].loadDatasetConfig.dataFiles", ["pvc://data-1/a", "pvc://home/b"]),
        "spec.dataConfigs[0].loadDatasetConfig.dataFiles[1] (pvc://home/b): FinetunePolicy team does not allow this "
        "PersistentVolumeClaim. Allowed: data-*.",
    ),
    (
        "secrets",
        ["s3"],
        plain_spec(),
        changed(plain_spec(), "storage.credentialsSecretRef.name", "registry-admin"),
        "spec.storage.credentialsSecretRef.name (registry-admin): FinetunePolicy team does not allow this Secret. "
        "Allowed: s3.",
    ),
    (
        "secrets",
        ["s3"],
        plain_spec(inputModel=HUB),
        plain_spec(inputModel=TOKEN),
        "spec.inputModel.tokenSecretRef.name (hub): FinetunePolicy team does not allow this Secret. Allowed: s3.",
    ),
    (
        "storageHosts",
        ["minio.minio.svc:9000", "*.example.com"],
        endpoint("https://s3.example.com"),
        endpoint("https://example.com.evil.org"),
        "spec.storage.endpoint (https://example.com.evil.org): FinetunePolicy team does not allow this storage host. "
        "Allowed: minio.minio.svc:9000, *.example.com.",
    ),
    (
        "storageHosts",
        ["s3.eu-central-1.amazonaws.com"],
        changed(changed(plain_spec(), "storage.endpoint", None), "storage.region", "eu-central-1"),
        changed(plain_spec(), "storage.endpoint", None),
        "spec.storage.endpoint (https://s3.us-east-1.amazonaws.com): FinetunePolicy team does not allow this storage "
        "host. Allowed: s3.eu-central-1.amazonaws.com.",
    ),
    (
        "hubHosts",
        [],
        plain_spec(),
        plain_spec(inputModel=HUB),
        "spec.inputModel.modelPath (microsoft/Phi-3-mini-4k-instruct): FinetunePolicy team does not allow this model "
        "hub. It allows none.",
    ),
]


@pytest.mark.parametrize(("field", "entries", "kept", "broken", "words"), TABLE, ids=lambda item: str(item)[:24])
def test_a_list_allows_what_is_in_it_and_says_what_that_is(
    field: str, entries: list[str], kept: Spec, broken: Spec, words: str
) -> None:
    held = policy("team", allow={field: entries})
    assert not held.problem
    assert said(kept, held) == []
    assert said(broken, held) == [words]
    assert said(broken, policy("team")) == []


def test_every_list_is_in_the_table() -> None:
    """A list that nothing looks at would allow everything in silence."""
    assert {Allowed.model_fields[field].alias for field in LISTS} == set(structural(Allowed, "")["properties"])
    assert {field for field, *_ in TABLE} == set(structural(Allowed, "")["properties"])


def test_the_hub_is_the_one_that_the_platform_sets() -> None:
    mirror = policy(
        "team",
        allow={"hubHosts": ["hub.example.com"]},
        pods={"env": [{"name": "HF_ENDPOINT", "value": "https://hub.example.com"}]},
    )
    assert said(plain_spec(inputModel=HUB), mirror) == []
    elsewhere = policy("team", allow={"hubHosts": ["hub.example.com"]})
    assert len(said(plain_spec(inputModel=HUB), elsewhere)) == 1
    adapted = {"modelPath": "s3://models/phi3", "adapterPath": "team/adapter"}
    assert len(said(plain_spec(inputModel=adapted), elsewhere)) == 1


def test_each_policy_must_allow_it_and_is_named() -> None:
    spec = system(image="ghcr.io/team/trainer:2")
    wide, narrow = policy("wide", allow={"images": ["ghcr.io"]}), policy("narrow", allow={"images": ["ghcr.io/other"]})
    assert said(spec, wide) == []
    (words,) = said(spec, wide, narrow)
    assert "FinetunePolicy narrow does not allow this image. Allowed: ghcr.io/other." in words
    assert len(said(spec, narrow, policy("none", allow={"images": []}))) == 2


def test_everything_that_is_wrong_is_said_at_once() -> None:
    spec = changed(system(image="x", serviceAccountName="y"), "inputModel.loadKwargs.trustRemoteCode", True)
    found = said(spec, policy("team", allow={"images": [], "serviceAccounts": [], "secrets": []}))
    assert [words.split(" ")[0] for words in found] == [
        "spec.systems[0].image",
        "spec.systems[0].serviceAccountName",
        "spec.storage.credentialsSecretRef.name",
        "spec.inputModel.loadKwargs.trustRemoteCode",
    ]


# --- hosts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "http://169.254.169.254/latest",
            "spec.storage.endpoint (http://169.254.169.254/latest): 169.254.169.254:80 is a link-local address. "
            "Use the storage's own address, or have it listed in a FinetunePolicy's allow.storageHosts.",
        ),
        (
            "http://2130706433:9000",
            "spec.storage.endpoint (http://2130706433:9000): 127.0.0.1:9000 is a loopback address. "
            "Use the storage's own address, or have it listed in a FinetunePolicy's allow.storageHosts.",
        ),
        (
            "http://minio@metadata.google.internal",
            "spec.storage.endpoint (http://minio@metadata.google.internal): no plain host and port. "
            "Write https://host:port.",
        ),
    ],
)
def test_some_hosts_are_refused_without_any_policy(url: str, words: str) -> None:
    assert said(endpoint(url)) == [words]
    assert said(endpoint(url), policy("team")) == [words]


def test_a_dangerous_host_must_be_listed_letter_by_letter() -> None:
    spec = endpoint("http://127.0.0.1:9000")
    assert said(spec, policy("team", allow={"storageHosts": ["127.0.0.1"]})) == []
    assert said(spec, policy("team", allow={"storageHosts": ["127.0.0.1:9000"]})) == []
    assert len(said(spec, policy("team", allow={"storageHosts": ["127.0.0.1:9001"]}))) == 2
    assert len(said(endpoint("http://a.localhost"), policy("team", allow={"storageHosts": ["*.localhost"]}))) == 2
    # Whom one policy lists, another may leave out.
    listing, other = policy("a", allow={"storageHosts": ["127.0.0.1"]}), policy("b", allow={"storageHosts": ["*.com"]})
    assert len(said(spec, listing, other)) == 1
    assert said(spec, listing, policy("b")) == []


def test_the_operators_own_setting_opens_its_hosts_and_no_list() -> None:
    spec = endpoint("http://127.0.0.1:9000")
    assert said(spec, allowed_hosts=("127.0.0.1",)) == []
    assert said(endpoint("http://127.0.0.2:9000"), allowed_hosts=("127.0.0.1",))
    assert len(said(spec, policy("team", allow={"storageHosts": ["*.com"]}), allowed_hosts=("127.0.0.1",))) == 1


# --- limits, references, code


@pytest.mark.parametrize(
    ("resources", "count"),
    [
        ({"limits": {"nvidia.com/gpu": 2, "cpu": 8, "memory": "64Gi"}}, 2),
        ({"requests": {"nvidia.com/gpu": 2}}, 2),
        ({"requests": {"nvidia.com/gpu": 2}, "limits": {"nvidia.com/gpu": 3}}, 3),
        ({"limits": {"nvidia.com/mig-1g.10gb": 4, "amd.com/gpu": 1}}, 5),
        ({"limits": {"cpu": 8, "hugepages-2Mi": "4Mi"}}, 0),
        ({"limits": {"nvidia.com/gpu": "1500m"}}, 2),
    ],
)
def test_the_devices_of_a_pod(resources: Body, count: int) -> None:
    assert devices(spec_of(system(resources=resources)).systems[0].resources) == count


def test_the_smallest_limit_counts_for_own_and_for_named_systems() -> None:
    wide = policy("wide", limits={"maxGpus": 8}, systems=[{"name": "big", "resources": {"limits": {"amd.com/gpu": 8}}}])
    narrow = policy("narrow", limits={"maxGpus": 4})
    own, named = system(resources={"limits": {"nvidia.com/gpu": 8}}), system(systemRef="big")
    assert said(own, wide) == said(named, wide) == []
    words = ["spec.systems[0].resources (8): FinetunePolicy narrow allows a stage 4 GPUs. Ask for fewer."]
    assert said(own, wide, narrow) == said(named, wide, narrow) == words
    assert said(system(resources={"limits": {"nvidia.com/gpu": 4}}), wide, narrow) == []


def test_all_pods_of_a_stage_count() -> None:
    asked = system(nodes=3, resources={"limits": {"nvidia.com/gpu": 4}})
    assert said(asked, policy("wide", limits={"maxGpus": 12, "maxNodes": 3})) == []
    assert said(asked, policy("narrow", limits={"maxGpus": 11, "maxNodes": 2})) == [
        "spec.systems[0].resources (12): FinetunePolicy narrow allows a stage 11 GPUs. Ask for fewer.",
        "spec.systems[0].nodes (3): FinetunePolicy narrow allows a stage 2 pods. Ask for fewer.",
    ]


def test_the_platforms_systems_are_its_own_to_fill() -> None:
    """That is what they are for: tenants get the image, the account and the taint by name, and not by themselves."""
    offered = {"name": "big", "image": "quay.io/x", "serviceAccountName": "platform", "runtimeClassName": "nvidia"}
    closed = policy("team", allow={"images": [], "serviceAccounts": [], "runtimeClasses": []}, systems=[offered])
    assert said(system(systemRef="big"), closed) == []
    assert len(said(system(**{name: value for name, value in offered.items() if name != "name"}), closed)) == 3


@pytest.mark.parametrize(
    ("policies", "remedy"),
    [
        ((), "There is none."),
        ((policy("a", systems=[{"name": "big"}]), policy("b", systems=[{"name": "cpu"}])), "There: big, cpu."),
    ],
)
def test_a_reference_must_lead_somewhere(policies: tuple[Any, ...], remedy: str) -> None:
    assert said(system(systemRef="huge"), *policies) == [
        "spec.systems[0].systemRef (huge): no FinetunePolicy of this namespace has a system of this name. " + remedy
    ]


CODE = changed(plain_spec(), "inputModel.loadKwargs.trustRemoteCode", True)


def test_remote_code_runs_where_every_policy_allows_it_and_there_is_one() -> None:
    yes, no = policy("yes", allowRemoteCode=True), policy("no")
    assert said(CODE, yes) == []
    assert said(CODE, yes, no) == [
        "spec.inputModel.loadKwargs.trustRemoteCode (true): FinetunePolicy no does not allow remote code. "
        "Remove it; built-in architectures need none."
    ]
    assert len(said(CODE)) == 1


def test_a_policy_that_cannot_be_read_forbids_everything() -> None:
    odd = policy("odd", limits={"maxGpus": -1})
    (words,) = said(plain_spec(), odd, policy("open"))
    assert words == (
        "metadata.namespace: FinetunePolicy odd cannot be read, so nothing runs: spec.limits.maxGpus (-1): input "
        "should be greater than or equal to 0. Have the platform team correct it."
    )
    assert said(CODE, odd) != said(plain_spec(), odd)


def test_secrets_are_names_in_the_jobs_own_namespace() -> None:
    """No reference has a field for a namespace, and no name has room for one."""
    for reference in (SecretRef, SecretKeyRef):
        assert set(reference.model_fields) <= {"name", "key"}
    for wrong in ({"name": "s3", "namespace": "team-b"}, {"name": "team-b/s3"}, {"name": "../s3"}):
        _, problems = check(changed(plain_spec(), "storage.credentialsSecretRef", wrong))
        assert problems[0].path.startswith("spec.storage.credentialsSecretRef.")
