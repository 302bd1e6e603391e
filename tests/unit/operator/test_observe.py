"""Jobs and pods as they may be: read into small types, whatever they say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.stage import MAX_RESULT_BYTES, StageResult
from finetune_operator import labels
from finetune_operator.observe import AttemptState, attempts, read_result
from finetune_operator.words import plain

UID = "owner-uid"
GOOD = StageResult(key="a" * 64, ok=True, digest="b" * 64).model_dump_json(exclude_none=True)


def job(name: str = "a", *, number: str = "1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-11-23T20:00:00Z",
            "labels": {labels.TRY: number, labels.ATTEMPT: number, labels.STAGE: "lora", labels.IDENTITY: "i"},
            "annotations": {labels.KEY: "k"},
            "ownerReferences": [{"uid": UID, "kind": "FinetuneJob"}],
        },
        "spec": {},
        "status": status,
    }


def pod(of: str = "a", created: str = "2026-11-23T20:00:01Z", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{of}-x",
            "creationTimestamp": created,
            "ownerReferences": [{"kind": "Job", "uid": f"uid-{of}"}],
        },
        "status": status,
    }


def ended(code: int, **more: Any) -> dict[str, Any]:
    state = {"name": "trainer", "state": {"terminated": {"exitCode": code, **more}}}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [state]}


def failed(message: str) -> dict[str, Any]:
    return {
        "conditions": [
            {
                "type": "Failed",
                "status": "True",
                "reason": "PodFailurePolicy",
                "message": message,
                "lastTransitionTime": "2026-11-23T20:01:00Z",
            }
        ]
    }


@pytest.mark.parametrize(
    ("status", "spec", "pods", "state"),
    [
        ({}, {}, [], AttemptState.PENDING),
        ({}, {"suspend": True}, [], AttemptState.SUSPENDED),
        ({}, {}, [pod(phase="Pending")], AttemptState.PENDING),
        ({}, {}, [pod(phase="Running")], AttemptState.RUNNING),
        ({}, {}, [pod(**ended(0))], AttemptState.RUNNING),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, {}, [], AttemptState.COMPLETE),
        ({"conditions": [{"type": "Complete", "status": "False"}]}, {}, [], AttemptState.PENDING),
        ({"conditions": [{"type": "FailureTarget", "status": "True"}]}, {}, [], AttemptState.PENDING),
        (failed("x"), {"suspend": True}, [], AttemptState.FAILED),
    ],
)
def test_where_an_attempt_stands(
    status: dict[str, Any], spec: dict[str, Any], pods: list[dict[str, Any]], state: AttemptState
) -> None:
    (found,) = attempts([{**job(**status), "spec": spec}], pods, UID)
    assert found.state is state


def test_attempts_come_in_order_of_their_number() -> None:
    jobs = [job("b", number="10"), job("a", number="2"), job("c", number="x"), job("d", number="²")]
    assert [(item.name, item.number) for item in attempts(jobs, [], UID)] == [("c", 1), ("d", 1), ("a", 2), ("b", 10)]


def test_the_newest_pod_counts() -> None:
    evicted = pod(created="2026-11-23T20:00:01Z", **ended(75))
    replaced = pod(created="2026-11-23T20:00:09Z", phase="Running")
    (found,) = attempts([job()], [replaced, evicted], UID)
    assert (found.state, found.exit_code) == (AttemptState.RUNNING, None)


@pytest.mark.parametrize("pods", [[], [pod(phase="Failed")], [pod(**ended(72))]])
def test_the_exit_code_is_readable_with_and_without_the_pod(pods: list[dict[str, Any]]) -> None:
    message = "Container trainer for pod team/a-x failed with exit code 72 matching FailJob rule at index 1"
    (found,) = attempts([job(**failed(message))], pods, UID)
    assert found.exit_code == 72
    assert found.finished_at == "2026-11-23T20:01:00Z"


def test_pods_of_others_are_not_looked_at() -> None:
    (found,) = attempts([job()], [pod("b", **ended(0, message=GOOD))], UID)
    assert (found.pod, found.result) == (None, None)


def test_another_containers_words_are_not_the_trainers() -> None:
    status = ended(0, message=GOOD)
    status["containerStatuses"][0]["name"] = "sidecar"
    (found,) = attempts([job()], [pod(**status)], UID)
    assert found.result is None


def test_a_result_is_read_only_within_its_bounds() -> None:
    assert read_result(GOOD) is not None
    assert read_result(GOOD + " " * (MAX_RESULT_BYTES - len(GOOD))) is not None
    assert read_result(GOOD + " " * (MAX_RESULT_BYTES - len(GOOD) + 1)) is None


@pytest.mark.parametrize(
    "message",
    [
        None, 3, "", "null", "[]", "NaN", '{"key": NaN}', "\ud800", '"\\ud800"', "[" * 2000, '{"a":' * 500, "x" * 10**6,
        GOOD.replace('"ok":true', '"ok":"yes!"'), GOOD[:-1] + ',"more":1}',
    ],
)  # fmt: skip
def test_what_is_no_result_is_none(message: Any) -> None:
    assert read_result(message) is None


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: raw.decode("latin-1")))
@settings(max_examples=200, deadline=None)
def test_any_text_is_made_plain(text: str) -> None:
    line = plain(text, 50)
    assert len(line) <= 50
    assert not set(line) & {"<", ">", "\n", "\r", "\x1b", "\x00", "\u2028", "\u202e"}
    line.encode()


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(message=st.text(max_size=300) | JSON.map(json.dumps), reason=st.text(max_size=80), phase=st.text(max_size=9))
@settings(max_examples=150, deadline=None)
def test_whatever_a_pod_says_is_bounded(message: str, reason: str, phase: str) -> None:
    waiting = {"name": "trainer", "state": {"waiting": {"reason": reason, "message": message}}}
    said = [pod(phase=phase, containerStatuses=[waiting]), pod("b", **ended(1, message=message, reason=reason))]
    for found in attempts([job(), job("b", **failed(message))], said, UID):
        assert found.result is None or found.result.ok in (True, False)
        assert len(found.failure) <= 512
        if found.waiting:
            assert found.waiting.reason.isalnum()
            assert found.waiting.reason[0].isalpha()
            assert found.waiting.reason.isascii()
            assert len(found.waiting.message) <= 512
