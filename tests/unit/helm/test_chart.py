"""What the chart renders to, value by value."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import helm_python
import pytest
import yaml

from finetune_operator.labels import GROUP
from finetune_operator.settings import PREFIX, Settings, from_environment

from .chart import CHART, EVERYTHING, NAME, NAMESPACE, NOTHING, ROOT, VALUES, Body, of_kind, one, render, render_texts


def environment(objects: list[Body]) -> dict[str, str]:
    """The operator's environment; what the downward API fills in stands as it would."""
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    filled = {"metadata.namespace": NAMESPACE, "metadata.name": "pod-1"}
    return {
        item["name"]: item["value"] if "value" in item else filled[item["valueFrom"]["fieldRef"]["fieldPath"]]
        for item in container["env"]
    }


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_to_complain_about(values: Body) -> None:
    report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE, kube_version="v1.30.0")
    assert report["errors"] == []
    assert [item for item in report["messages"] if item["severity"] > 1] == []


def test_the_defaults_set_what_the_operator_would_have_chosen() -> None:
    settings = from_environment(environment(render()))
    expected = Settings(
        trainer_image="finetune-trainer:0.1.0",
        light_image="finetune-trainer-cpu:0.1.0",
        namespace=NAMESPACE,
        liveness_port=8080,
        metrics_port=9090,
        lease=NAME,
        # For people where it runs by hand, for machines in a cluster.
        log_format="json",
    )
    assert settings == expected


def test_every_setting_can_be_set() -> None:
    values: Body = {
        "namespaces": ["a", "b"],
        "livenessPort": 8000,
        "metricsPort": 8001,
        "trainer": {
            "image": {"repository": "x/t", "tag": "1"},
            "lightImage": {"digest": "sha256:" + "b" * 64},
            "pullPolicy": "Always",
            "resources": {"cpu": "2", "memory": "5Gi"},
            "lightResources": {"cpu": "300m", "memory": "2Gi"},
            "scratchSize": "1Ti",
            "terminationGraceSeconds": 90,
        },
        "operator": {
            "workers": 3,
            "requestTimeout": 7.5,
            "progressInterval": 2,
            "progressInFlight": 9,
            "retryBackoff": 1,
            "retryBackoffLimit": 20,
            "logFormat": "text",
            "leaseSeconds": 9,
            "stuckSeconds": 60,
            "freeRetries": 3,
            "nodeUnreachableAfter": 90,
            "resyncSeconds": 30,
            "allowedHosts": ["127.0.0.1", "169.254.20.10"],
        },
    }
    expected = Settings(
        trainer_image="x/t:1",
        light_image="finetune-trainer-cpu@sha256:" + "b" * 64,
        namespaces=("a", "b"),
        namespace=NAMESPACE,
        allowed_hosts=("127.0.0.1", "169.254.20.10"),
        progress_interval=2.0,
        progress_in_flight=9,
        retry_backoff=1.0,
        retry_backoff_limit=20.0,
        workers=3,
        request_timeout=7.5,
        liveness_port=8000,
        metrics_port=8001,
        lease=NAME,
        lease_seconds=9,
        log_format="text",
        stuck_seconds=60.0,
        free_retries=3,
        node_unreachable_after=90.0,
        resync_seconds=30.0,
        default_cpu="2",
        default_memory="5Gi",
        light_cpu="300m",
        light_memory="2Gi",
        scratch_size="1Ti",
        termination_grace=90,
        image_pull_policy="Always",
    )
    found = environment(render(values))
    assert from_environment(found) == expected
    ours = {name for name in found if name.startswith(PREFIX)}
    assert ours == {PREFIX + field.name.upper() for field in fields(Settings)}


def test_everything_arrives_where_it_belongs() -> None:
    objects = render(EVERYTHING)
    template = one(objects, "Deployment")["spec"]["template"]
    pod = template["spec"]
    assert pod["containers"][0]["image"] == "mirror.example.com/ml/finetune-operator@sha256:" + "a" * 64
    assert pod["imagePullSecrets"] == [{"name": "mirror"}]
    assert pod["serviceAccountName"] == "tuner"
    assert pod["priorityClassName"] == one(objects, "PriorityClass", "platform")["metadata"]["name"]
    for name in ("nodeSelector", "tolerations", "affinity"):
        assert pod[name] == EVERYTHING[name]
    assert template["metadata"]["annotations"] == {"note": "1"}
    assert template["metadata"]["labels"]["team"] == "platform"
    found = environment(objects)
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert found["FINETUNE_TRAINER_IMAGE"] == "mirror.example.com/ml/finetune-trainer:2"
    assert found["FINETUNE_LIGHT_IMAGE"] == "mirror.example.com/ml/light:0.1.0"


def test_what_is_switched_off_is_not_there() -> None:
    assert {item["kind"] for item in render(NOTHING)} == {"Deployment", "Service"}


def test_the_pods_are_two_spread_softly_and_probed() -> None:
    deployment = one(render(), "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    assert deployment["replicas"] == 2
    assert {item["whenUnsatisfiable"] for item in pod["topologySpreadConstraints"]} == {"ScheduleAnyway"}
    container = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"liveness": 8080, "metrics": 9090}
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "liveness"}
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_selectors_select_the_operator_pods(values: Body) -> None:
    objects = render(values)
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        *(item["spec"]["selector"]["matchLabels"] for item in of_kind(objects, "PodDisruptionBudget")),
        *(item["spec"]["podSelector"]["matchLabels"] for item in of_kind(objects, "NetworkPolicy")),
        *(item["spec"]["selector"] for item in of_kind(objects, "Service")),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    for monitor in of_kind(objects, "ServiceMonitor"):
        (service,) = of_kind(objects, "Service")
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_two_releases_share_no_name() -> None:
    def names(objects: list[Body]) -> set[tuple[str, str]]:
        return {(item["kind"], item["metadata"]["name"]) for item in objects}

    shared = names(render()) & names(render(release="other"))
    crds = ("finetunejobs.finetune.dev", "finetunepolicies.finetune.dev")
    assert shared == {("CustomResourceDefinition", name) for name in crds}


def test_the_network_policy_opens_the_api_server_dns_probes_and_metrics() -> None:
    spec = one(render(EVERYTHING), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    api, dns = spec["egress"]
    assert api == {"ports": [{"protocol": "TCP", "port": 6443}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    probes, metrics = spec["ingress"]
    assert probes == {"ports": [{"protocol": "TCP", "port": "liveness"}]}
    assert metrics["from"] == EVERYTHING["networkPolicy"]["metrics"]["from"]


# --- the CRD


def test_the_crds_are_the_generated_ones_and_are_kept() -> None:
    rendered = of_kind(render(), "CustomResourceDefinition")
    generated = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    copies = {path.name: path.read_text() for path in (CHART / "files/crds").glob("*.yaml")}
    assert copies == generated, "run: cp crds/*.yaml helm/finetune-operator/files/crds/"
    assert all(item["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"} for item in rendered)
    assert rendered == [yaml.safe_load(text) for _, text in sorted(generated.items())]


# --- values


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": 0}, "replicas"),
        ({"namespaces": ["kube-system"]}, "namespaces"),
        ({"namespaces": ["Team A"]}, "namespaces"),
        ({"trainer": {"image": {"tag": "latest"}}}, "tag"),
        ({"image": {"digest": "abc"}}, "digest"),
        ({"trainer": {"resources": {"memory": 4}}}, "memory"),
        ({"metricsPort": 80}, "metricsPort"),
        ({"trainer": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"extraEnv": [{"name": "FINETUNE_LEASE", "value": ""}]}, "extraEnv"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: Body, named: str) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmValuesError, match=named):
        chart.validate_schema(values)


def test_a_priority_class_needs_a_name() -> None:
    with pytest.raises(helm_python.HelmError, match=r"priorityClass\.name"):
        render({"priorityClass": {"create": True}})


def leaves(schema: Body, path: str = "") -> set[str]:
    """Paths of the values that a schema names."""
    if "properties" not in schema:
        return {path}
    return set().union(
        *(leaves(inner, f"{path}.{name}" if path else name) for name, inner in schema["properties"].items())
    )


def set_values(values: Any, schema: Body, path: str = "") -> set[str]:
    """Paths of the values that values.yaml sets, as deep as the schema knows them."""
    if "properties" not in schema:
        return {path}
    return set().union(
        *(
            set_values(inner, schema["properties"][name], f"{path}.{name}" if path else name)
            for name, inner in values.items()
        )
    )


def test_schema_defaults_and_readme_name_the_same_values() -> None:
    with helm_python.Chart.load(CHART) as chart:
        schema, defaults = chart.schema, chart.values
    assert schema is not None
    assert leaves(schema) - {"global"} == set_values(defaults, schema)
    documented = set(re.findall(r"^\| `([\w.]+)`", (CHART / "README.md").read_text(), re.MULTILINE))
    assert documented == set_values(defaults, schema)


def test_the_notes_say_what_was_installed() -> None:
    notes = render_texts(EVERYTHING)["NOTES.txt"]
    assert "team-a, team-b" in notes
    assert "mirror.example.com/ml/finetune-trainer:2" in notes
    assert "admission policy is off" in render_texts(NOTHING)["NOTES.txt"]


def test_the_group_is_written_as_the_api_has_it() -> None:
    """The templates cannot import it."""
    for name in ("rbac.yaml", "tenant-roles.yaml"):
        groups = re.findall(r"apiGroups: \[(finetune[\w.]*)\]", (CHART / "templates" / name).read_text())
        assert set(groups) == {GROUP}
