"""Built-in kinds: defaults, validation, immutability, tables, versions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_local.apiserver.durations import age, human
from finetune_local.apiserver.jsonpath import find

from .support import (
    CONFIGMAPS,
    DEFINITIONS,
    JOBS,
    PODS,
    STRATEGIC,
    WIDGETS,
    Client,
    configmap,
    definition,
    job,
    pod,
    widget,
)

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
SERVICES = "/api/v1/namespaces/default/services"
SECRETS = "/api/v1/namespaces/default/secrets"
EVENTS = "/api/v1/namespaces/default/events"


async def test_defaults_of_a_job(client: Client) -> None:
    made = await client.made(JOBS, job("j"))
    uid, spec = made["metadata"]["uid"], made["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"], spec["suspend"]) == (1, 1, 6, False)
    assert (spec["completionMode"], spec["podReplacementPolicy"]) == ("NonIndexed", "TerminatingOrFailed")
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert spec["template"]["metadata"]["labels"] == {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "j",
        "controller-uid": uid,
        "job-name": "j",
    }
    container = spec["template"]["spec"]["containers"][0]
    assert (container["terminationMessagePath"], container["imagePullPolicy"]) == (
        "/dev/termination-log",
        "IfNotPresent",
    )
    policy = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}
    other = await client.made(JOBS, job("k", podFailurePolicy=policy, parallelism=2))
    assert other["spec"]["podReplacementPolicy"] == "Failed"
    assert other["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"] == "True"
    assert "completions" not in other["spec"], "a work queue has parallelism alone"


def with_template(**spec: Any) -> dict[str, Any]:
    body = job("j")
    template = body["spec"]["template"]["spec"]
    for key, value in spec.items():
        template.pop(key, None)
        if value is not None:
            template[key] = value
    return body


def rule(**codes: Any) -> dict[str, Any]:
    exit_codes = {"operator": "In", "values": [1], **codes}
    return job("j", podFailurePolicy={"rules": [{"action": "FailJob", "onExitCodes": exit_codes}]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            with_template(restartPolicy=None),
            'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure"',
        ),
        (with_template(restartPolicy="Always"), 'Unsupported value: "Always": supported values: "OnFailure", "Never"'),
        (with_template(containers=None), "spec.template.spec.containers: Required value"),
        (with_template(containers=[{"name": "c"}]), "spec.template.spec.containers[0].image: Required value"),
        (with_template(containers=[{"name": "A", "image": "i"}]), 'containers[0].name: Invalid value: "A"'),
        (
            with_template(containers=[{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
            'volumeMounts[0].name: Not found: "v"',
        ),
        (with_template(containers=[{"name": "c", "image": "i"}] * 2), 'containers[1].name: Duplicate value: "c"'),
        (job("j", backoffLimit=-1), "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"),
        (job("j", completionMode="Indexed", parallelism=2), "spec.completions: Required value: when completion mode"),
        (job("j" * 64), "must be no more than 63 bytes"),
        (rule(values=[0]), "values[0]: Invalid value: 0: must not be 0 for the In operator"),
        (rule(values=[2, 1]), "must be ordered"),
        (rule(values=[1, 1]), "values[1]: Duplicate value: 1"),
        (rule(values=[]), "at least one value is required"),
        (rule(containerName="other"), "must be one of the container or initContainer names in the pod template"),
        (
            {
                **rule(),
                "spec": {**rule()["spec"], "template": with_template(restartPolicy="OnFailure")["spec"]["template"]},
            },
            'only "Never" is supported when podFailurePolicy is specified',
        ),
        (
            job("j", podFailurePolicy={"rules": [{"action": "FailJob"}]}),
            "specifying one of OnExitCodes and OnPodConditions is required",
        ),
    ],
)
async def test_jobs_that_are_refused(client: Client, body: dict[str, Any], text: str) -> None:
    reply = await client.post(JOBS, body)
    assert reply.code == 422, reply.body
    assert text in reply.message


async def test_a_jobs_template_is_immutable_except_for_a_queue(client: Client) -> None:
    await client.made(JOBS, job("j"))
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "other:1"}]}}}}
    selector = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "gpu"}}}}}
    for change in (image, selector):
        refused = await client.patch(f"{JOBS}/j", change, STRATEGIC)
        assert refused.code == 422
        assert "spec.template" in refused.message
        assert refused.message.endswith("field is immutable")
    assert (await client.patch(f"{JOBS}/j", {"spec": {"completions": 2}})).code == 422
    assert (await client.patch(f"{JOBS}/j", {"spec": {"parallelism": 0, "suspend": True}})).code == 200
    await client.made(JOBS, job("queued", suspend=True))
    assert (await client.patch(f"{JOBS}/queued", selector, STRATEGIC)).code == 200
    assert (await client.patch(f"{JOBS}/queued", image, STRATEGIC)).code == 422
    await client.patch(f"{JOBS}/queued/status", {"status": {"startTime": "2026-01-01T00:00:00Z"}})
    more = {"spec": {"template": {"spec": {"nodeSelector": {"pool": "cpu"}}}}}
    assert (await client.patch(f"{JOBS}/queued", more, STRATEGIC)).code == 422


async def test_pods(client: Client) -> None:
    made = await client.made(PODS, pod("p", volumes=[{"name": "s", "secret": {"secretName": "x"}}]))
    spec = made["spec"]
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert (spec["restartPolicy"], spec["serviceAccountName"], spec["terminationGracePeriodSeconds"]) == (
        "Always",
        "default",
        30,
    )
    assert spec["volumes"][0]["secret"]["defaultMode"] == 0o644
    refused = await client.patch(f"{PODS}/p", {"spec": {"nodeName": "n"}})
    assert refused.code == 422
    assert "spec: Forbidden: pod updates may not change fields other than" in refused.message
    image = {"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}
    assert (await client.patch(f"{PODS}/p", image, STRATEGIC)).code == 200
    limits = {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}
    body = pod("q", containers=[{"name": "main", "image": "i", **limits}])
    limited = await client.made(PODS, body)
    assert limited["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert limited["status"]["qosClass"] == "Guaranteed"


async def test_immutable_data_and_plain_secrets(client: Client) -> None:
    await client.made(CONFIGMAPS, {**configmap("c", a="1"), "immutable": True})
    for change in ({"data": {"a": "2"}}, {"immutable": None}):
        refused = await client.patch(f"{CONFIGMAPS}/c", change)
        assert refused.code == 422
        assert "field is immutable when `immutable` is set" in refused.message
    assert (await client.patch(f"{CONFIGMAPS}/c", {"metadata": {"labels": {"a": "b"}}})).code == 200
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}}
    made = await client.made(SECRETS, {**secret, "data": {"c": "ZA=="}})
    assert (made["data"], made["type"]) == ({"a": "Yg==", "c": "ZA=="}, "Opaque")
    assert "stringData" not in made
    wrong = await client.post(SECRETS, {**secret, "metadata": {"name": "t"}, "data": {"x": "no base64!"}})
    assert wrong.code == 400
    assert (await client.patch(f"{SECRETS}/s", {"type": "other"})).code == 422


async def test_a_headless_service_stays_headless(client: Client) -> None:
    spec = {"clusterIP": "None", "ports": [{"port": 80}], "publishNotReadyAddresses": True}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}
    made = (await client.made(SERVICES, body))["spec"]
    assert (made["clusterIP"], made["clusterIPs"]) == ("None", ["None"])
    assert made["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]


async def test_events_of_both_groups_are_the_same_objects(client: Client) -> None:
    about = {"kind": "Pod", "name": "p", "namespace": "default"}
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "regarding": about,
        "note": "said",
        "reason": "Because",
        "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Doing",
        "reportingController": "me",
        "reportingInstance": "me-1",
    }
    new = "/apis/events.k8s.io/v1/namespaces/default/events"
    assert (await client.made(new, body))["note"] == "said"
    old = (await client.get(f"{EVENTS}/e")).body
    assert (old["apiVersion"], old["message"], old["involvedObject"]) == ("v1", "said", about)
    found = (await client.get(EVENTS, fieldSelector="involvedObject.name=p,reason=Because")).body["items"]
    assert len(found) == 1
    assert not (await client.get(EVENTS, fieldSelector="involvedObject.name=q")).body["items"]
    listed = (await client.get(new)).body
    assert (listed["apiVersion"], listed["items"][0]["regarding"]) == ("events.k8s.io/v1", about)
    elsewhere = {**body, "metadata": {"name": "f"}, "regarding": {**about, "namespace": "other"}}
    assert (await client.post(new, elsewhere)).code == 422


async def test_versions_of_a_custom_resource(client: Client) -> None:
    body = definition()
    first = body["spec"]["versions"][0]
    body["spec"]["versions"] = [first, {**first, "name": "v2", "storage": False}]
    await client.made(DEFINITIONS, body)
    second = WIDGETS.replace("/v1/", "/v2/")
    await client.made(second, {**widget("w", a=1), "apiVersion": "acme.io/v2"})
    assert (await client.get(f"{WIDGETS}/w")).body["apiVersion"] == "acme.io/v1"
    changed = await client.patch(f"{second}/w", {"spec": {"a": 2}})
    assert (changed.body["apiVersion"], changed.body["spec"]) == ("acme.io/v2", {"a": 2})
    assert (await client.post(second, widget("x"))).code == 400
    retired = [first, {**first, "name": "v2", "storage": False, "served": False}]
    await client.patch(f"{DEFINITIONS}/widgets.acme.io", {"spec": {"versions": retired}})
    assert (await client.get(f"{second}/w")).code == 404


async def cells(client: Client, path: str) -> dict[str, Any]:
    """The first row of a table by column."""
    table = (await client.get(path, accept=TABLE)).body
    names = [column["name"] for column in table["columnDefinitions"]]
    return dict(zip(names, table["rows"][0]["cells"], strict=True))


async def test_tables_of_custom_resources(client: Client) -> None:
    columns = [
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Wrong", "type": "integer", "jsonPath": ".spec.text"},
        {"name": "Rate", "type": "number", "jsonPath": ".spec.rate", "priority": 1},
        {"name": "Passes", "type": "string", "jsonPath": ".spec.passes[*].name"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    await client.made(DEFINITIONS, definition(additionalPrinterColumns=columns))
    spec = {"size": 3, "text": "x", "rate": 0.5, "passes": [{"name": "a"}, {"name": "b"}]}
    await client.made(WIDGETS, widget("w", **spec))
    status = {"phase": "Running", "conditions": [{"type": "Other"}, {"type": "Ready", "status": "True"}]}
    await client.patch(f"{WIDGETS}/w/status", {"status": status})
    row = await cells(client, f"{WIDGETS}/w")
    age_text = row.pop("Age")
    assert age_text.endswith("s")
    assert row == {
        "Name": "w",
        "Phase": "Running",
        "Ready": "True",
        "Size": 3,
        "Wrong": None,
        "Rate": 0.5,
        "Passes": '["a","b"]',
    }
    table = (await client.get(WIDGETS, accept=TABLE, includeObject="Object")).body
    assert table["columnDefinitions"][5]["priority"] == 1
    assert table["rows"][0]["object"]["spec"]["size"] == 3
    partial = (await client.get(WIDGETS, accept=TABLE)).body["rows"][0]["object"]
    assert (partial["kind"], "spec" in partial) == ("PartialObjectMetadata", False)


def container_state(**state: Any) -> dict[str, Any]:
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "state": state}]}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"phase": "Running"}, "Running"),
        (container_state(waiting={"reason": "ErrImagePull"}), "ErrImagePull"),
        (container_state(terminated={"reason": "OOMKilled", "exitCode": 137}), "OOMKilled"),
        (container_state(terminated={"exitCode": 3}), "ExitCode:3"),
        ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, "Init:0/1"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ],
)
async def test_the_status_column_of_pods(client: Client, status: dict[str, Any], text: str) -> None:
    await client.made(PODS, pod("p"))
    await client.patch(f"{PODS}/p/status", {"status": status})
    assert (await cells(client, f"{PODS}/p"))["Status"] == text


async def test_the_columns_of_jobs(client: Client) -> None:
    await client.made(JOBS, job("j", completions=3, parallelism=2))
    row = await cells(client, JOBS)
    assert (row["Status"], row["Completions"], row["Duration"]) == ("Running", "0/3", "")
    times = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:02:05Z"}
    status = {**times, "succeeded": 3, "conditions": [{"type": "Complete", "status": "True"}]}
    await client.patch(f"{JOBS}/j/status", {"status": status})
    row = await cells(client, JOBS)
    assert (row["Status"], row["Completions"], row["Duration"]) == ("Complete", "3/3", "2m5s")
    assert (row["Images"], row["Containers"]) == ("busybox:1", "main")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (9 * 86400, "9d"),
        (800 * 86400, "2y70d"),
    ],
)
def test_durations_as_kubectl_prints_them(seconds: int, text: str) -> None:
    assert human(seconds) == text


def test_ages() -> None:
    assert age((datetime.now(UTC) - timedelta(minutes=5)).isoformat()) == "5m"
    assert (age(None), age("soon"), age(3)) == ("<unknown>", "<invalid>", "<invalid>")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.b", [1]),
        ("l[0].n", ["x"]),
        ("l[-1].n", ["y"]),
        ("l[9].n", []),
        ("l[*].n", ["x", "y"]),
        ("l[?(@.n=='y')].v", [2]),
        ("l[?(@.v!=2)].n", ["x"]),
        ("a['b']", [1]),
        ("labels.app\\.io/name", ["z"]),
        ("nothing.at.all", []),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    value = {"a": {"b": 1}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "labels": {"app.io/name": "z"}}
    assert find(value, path) == found
