"""The CRDs of the cluster under test: made where they are missing, and then taken away again."""

from __future__ import annotations

import contextlib
import warnings

from .api import CRDS, GROUP_PATH, Api, Body, wait_for

# How long what the tests' namespaces held may take to go with them.
GONE_SECONDS = 20.0


def defined(api: Api, definition: Body, *, renew: bool) -> bool:
    """See to it that the cluster has a definition, as it is now where it is to be renewed; whether it was not there."""
    made = api.ensure(CRDS, definition, renew=renew)
    path = f"{CRDS}/{definition['metadata']['name']}"
    wait_for(f"{path} to be established", lambda: _established(api, path), 30)
    return made


def undefine(api: Api, made: list[Body]) -> None:
    """Take definitions of the tests' own away: Helm would not install over what is not its own.

    With them would go whatever there is of their kind: they stay where somebody else has some by now.
    """
    for definition in made:
        kind = definition["spec"]["names"]["plural"]
        with contextlib.suppress(AssertionError):
            wait_for(f"the tests' {kind} to be gone", lambda kind=kind: not _there(api, kind), GONE_SECONDS)
        if _there(api, kind):
            warnings.warn(f"the CRD of {kind} is kept: the cluster has some that are not the tests'", stacklevel=1)
        else:
            api.delete(f"{CRDS}/{definition['metadata']['name']}")


def _there(api: Api, kind: str) -> list[Body]:
    found: list[Body] = api.get(f"{GROUP_PATH}/{kind}")["items"]
    return found


def _established(api: Api, path: str) -> bool:
    conditions = api.get(path).get("status", {}).get("conditions", [])
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)
