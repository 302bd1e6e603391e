"""How the operator is started."""

from __future__ import annotations

import getpass
from typing import Any

import kopf
import pytest

from finetune_operator import __main__ as program


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> dict[str, Any]:
    """What kopf is started with; the process's user has no name, as in a container."""

    def no_name() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    found: dict[str, Any] = {}

    async def operator(**arguments: Any) -> None:
        found.update(arguments)

    (tmp_path / "kubeconfig").touch()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(getpass, "getuser", no_name)
    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(program.logs, "configure", lambda _: None)
    return found


def test_it_needs_no_name_of_its_user(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "finetune-operator-0")
    assert program.main([]) == 0
    assert given["identity"] == "finetune-operator-0"
    monkeypatch.delenv("POD_NAME")
    assert program.main([]) == 0
    assert given["identity"]


def test_it_watches_the_namespaces_that_are_listed(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.main([]) == 0
    assert (given["clusterwide"], given["namespaces"]) == (True, [])
    monkeypatch.setenv("FINETUNE_NAMESPACES", "a,b")
    assert program.main([]) == 0
    assert (given["clusterwide"], given["namespaces"]) == (False, ["a", "b"])
