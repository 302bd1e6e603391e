"""The API server as the tests see it, through whatever kubeconfig: JSON in, JSON out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
from kubernetes import client, config

Body = dict[str, Any]
# A real cluster pulls, schedules and starts containers, often on few CPUs: what is waited for may take longer there.
PATIENCE = float(
    os.environ.get("FINETUNE_E2E_PATIENCE") or ("3" if os.environ.get("FINETUNE_E2E_CLUSTER") == "1" else "1")
)
Found = TypeVar("Found")

GROUP_PATH = "/apis/finetune.dev/v1alpha1"
FINETUNE_JOBS = GROUP_PATH + "/namespaces/{namespace}/finetunejobs"
FINETUNE_POLICIES = GROUP_PATH + "/finetunepolicies"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
SECRETS = "/api/v1/namespaces/{namespace}/secrets"
NAMESPACES = "/api/v1/namespaces"
APPLY = "application/apply-patch+yaml"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Api:
    """Requests with the credentials of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        settings = client.Configuration()
        config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        self.url = settings.host
        self._session = requests.Session()
        self._session.verify = (settings.ssl_ca_cert or True) if settings.verify_ssl else False
        if settings.cert_file:
            self._session.cert = (settings.cert_file, settings.key_file)
        token = settings.get_api_key_with_prefix("authorization") or settings.get_api_key_with_prefix("BearerToken")
        if token:
            self._session.headers["Authorization"] = token

    def request(
        self, method: str, path: str, body: Body | None = None, *, kind: str = "", **query: str
    ) -> requests.Response:
        """One request, whatever it answers. `kind`: of the body; empty: as the method has it.

        The certificates are named here because REQUESTS_CA_BUNDLE wins over a session's own, and knows no cluster's.
        """
        kind = kind or ("application/merge-patch+json" if method == "PATCH" else "application/json")
        headers = {"Content-Type": kind} if body is not None else {}
        return self._session.request(
            method,
            self.url + path,
            json=body,
            headers=headers,
            params=query,
            timeout=30 * PATIENCE,
            verify=self._session.verify,
        )

    def get(self, path: str, **query: str) -> Body:
        return self._good(self.request("GET", path, **query))

    def create(self, path: str, body: Body, **query: str) -> Body:
        return self._good(self.request("POST", path, body, **query))

    def patch(self, path: str, body: Body) -> Body:
        return self._good(self.request("PATCH", path, body))

    def apply(self, path: str, body: Body) -> Body:
        """Server-side apply of the whole of `body`, as `kubectl apply --server-side` and Argo CD do it."""
        return self._good(self.request("PATCH", path, body, kind=APPLY, fieldManager="e2e", force="true"))

    def delete(self, path: str, policy: str = "Background") -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        answer = self.request("DELETE", path, body)
        if answer.status_code != 404:
            self._good(answer)

    def exists(self, path: str) -> bool:
        return self.request("GET", path).status_code == 200

    def ensure(self, path: str, body: Body, *, renew: bool = False) -> bool:
        """Create `body`; whether it was not there. What is there gets its spec where it is to be renewed."""
        answer = self.request("POST", path, body)
        if answer.status_code != 409:
            self._good(answer)
            return True
        if renew:
            self.patch(f"{path}/{body['metadata']['name']}", {"spec": body["spec"]})
        return False

    @staticmethod
    def _good(answer: requests.Response) -> Body:
        if not answer.ok:
            raise AssertionError(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text[:1000]}")
        found: Body = answer.json()
        return found


def wait_for(what: str | Callable[[], str], look: Callable[[], Found | None], seconds: float) -> Found:
    """What `look` finds, as soon as it finds it. Fails after `seconds`, saying what was waited for."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds * PATIENCE:g} s in vain: {what() if callable(what) else what}")
        time.sleep(0.1)
