"""Policies and namespaces as the watches show them, and what happens where they may not be read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from finetune_operator.kube import ApiError
from finetune_operator.policy_watch import PolicyWatch

Body = dict[str, Any]


class Server:
    """An API server's answers to the probes, and a namespace that the watch does not show."""

    def __init__(self, **answers: list[Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def probe(self, kind: str) -> None:
        self.asked.append(kind)
        if self.answers.get(kind):
            raise self.answers[kind].pop(0)

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.asked.append(f"{kind} {name}")
        return {"metadata": {"name": name, "labels": {"team": "a"}}} if name == "new" else None


async def shown(watch: PolicyWatch, policies: list[Body], namespaces: dict[str, Body]) -> dict[str, Any]:
    """What kopf's indices hold."""
    found: dict[str, Any] = {"finetune_policies": {}, "namespaces": {}}
    for body in policies:
        name = body["metadata"]["name"]
        found["finetune_policies"][name] = list((await watch.index_policy(body=body, name=name)).values())
    for name, labels in namespaces.items():
        body = {"metadata": {"name": name, "labels": labels}}
        found["namespaces"][name] = list((await watch.index_namespace(body=body, name=name)).values())
    return found


TEAM_A = {"metadata": {"name": "a"}, "spec": {"namespaceSelector": {"matchLabels": {"team": "a"}}}}


async def names(watch: PolicyWatch, namespace: str) -> list[str]:
    return [policy.name for policy in (await watch.of(namespace)).policies]


async def test_policies_hold_by_the_labels_of_the_namespace() -> None:
    watch, server = PolicyWatch(lambda _: None), Server()
    everywhere = {"metadata": {"name": "all"}, "spec": {}}
    await watch.start(server, await shown(watch, [TEAM_A, everywhere], {"one": {"team": "a"}, "two": {}}))  # type: ignore[arg-type]
    assert await names(watch, "one") == ["a", "all"]
    assert await names(watch, "two") == ["all"]
    assert sorted(server.asked) == ["FinetunePolicy", "Namespace"]


async def test_a_namespace_that_the_watch_does_not_show_yet_is_asked_for() -> None:
    watch, server = PolicyWatch(lambda _: None), Server()
    await watch.start(server, await shown(watch, [TEAM_A], {}))  # type: ignore[arg-type]
    assert await names(watch, "new") == ["a"]
    assert await names(watch, "gone") == []
    assert server.asked[2:] == ["Namespace new", "Namespace gone"]


async def test_an_unreadable_policy_holds_everywhere_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch = PolicyWatch(lambda _: None)
    odd = {"metadata": {"name": "odd"}, "spec": {"allow": {"images": "all"}}}
    await watch.start(Server(), await shown(watch, [odd], {"one": {}}))  # type: ignore[arg-type]
    assert await names(watch, "one") == ["odd"]
    assert "FinetunePolicy odd cannot be read; what it selects runs nothing: spec.allow.images (all)" in caplog.text


@pytest.mark.parametrize("kind", ["FinetunePolicy", "Namespace"])
async def test_without_the_right_to_read_policies_nothing_starts(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    watch, server = PolicyWatch(lambda _: None), Server(**{kind: [ApiError(403, "Forbidden", "no")]})
    with pytest.raises(ApiError):
        await watch.start(server, await shown(watch, [], {}))  # type: ignore[arg-type]
    assert f"{kind} may not be listed, so no policy can be kept and nothing is run: grant" in caplog.text


async def test_without_the_crd_the_safe_defaults_hold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    watch, server = PolicyWatch(lambda _: None), Server(FinetunePolicy=[ApiError(404, "NotFound", "no")])
    await watch.start(server, await shown(watch, [], {}))  # type: ignore[arg-type]
    assert await names(watch, "one") == []
    assert "there is no FinetunePolicy in this cluster: the safe defaults alone hold" in caplog.text


async def test_an_api_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.policy_watch.ASK_AGAIN_AFTER", 0.0)
    watch = PolicyWatch(lambda _: None)
    server = Server(FinetunePolicy=[ConnectionRefusedError(), ApiError(503, "Unavailable", "later")])
    await watch.start(server, await shown(watch, [], {}))  # type: ignore[arg-type]
    assert server.asked.count("FinetunePolicy") == 3


async def test_only_other_labels_are_news_of_a_namespace() -> None:
    told: list[str | None] = []
    watch = PolicyWatch(told.append)

    async def see(labels: Body | None, kind: str | None = "MODIFIED") -> None:
        await watch.on_namespace(body={"metadata": {"name": "one", "labels": labels}}, name="one", type=kind)  # type: ignore[arg-type]

    await see({"team": "a"}, None)
    await see({"team": "a"})
    assert told == []
    await see({"team": "b"})
    await see(None, None)
    assert told == ["one", "one"]
    await see(None, "DELETED")
    await see({"team": "c"}, "ADDED")
    assert told == ["one", "one"]
    await watch.on_policy()
    assert told[2:] == [None]


async def test_a_policy_whose_end_went_unsaid_holds_no_more() -> None:
    watch = PolicyWatch(lambda _: None)
    policy = {"metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}, "spec": {}}
    await watch.start(Server(), await shown(watch, [policy], {"one": {}}))  # type: ignore[arg-type]
    (policies, namespaces) = watch.caches()
    assert policies.versions() == {"u": (("", ""), 7)}
    assert [key for key, _ in namespaces.items()] == [("one", "")]
    assert await names(watch, "one") == ["a"]
    watch.is_ghost = lambda item: item["metadata"]["uid"] == "u"
    assert await names(watch, "one") == []
