"""The cluster that kubectl would speak to, as the command line uses it: FinetuneJobs, their pods and Secrets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from math import ceil, inf
from time import monotonic
from typing import Any, TypeVar, cast

import urllib3
import yaml
from kubernetes import client, config, watch

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.status import Status
from finetune_cli.errors import environment, invalid, job_failed, timed_out
from finetune_cli.jobfile import Body
from finetune_cli.standing import status_of
from finetune_cli.words import ended
from finetune_operator import labels

Answer = TypeVar("Answer")

REQUEST_SECONDS = 30
# How long one watch lasts before the server ends it and the client asks again.
WATCH_SECONDS = 240
# How long a followed log may say nothing: a stage waits for its inputs, its GPU's step, its store.
SILENT_SECONDS = 24 * 3600
NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
GONE = 410


class Cluster:
    """One API server and the namespace that is meant. Every error is a CliError that says what to do."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._jobs = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    @classmethod
    def connect(cls, arguments: argparse.Namespace) -> Cluster:
        """By the options of `arguments.add_cluster`; inside a pod without a kubeconfig, as its service account."""
        path, context = arguments.kubeconfig, arguments.context
        try:
            if not path and not context and _in_pod():
                settings = client.Configuration()
                config.load_incluster_config(client_configuration=settings)
                return cls(client.ApiClient(settings), arguments.namespace or _pod_namespace())
            contexts, current = config.list_kube_config_contexts(path)
            chosen = _context(contexts, context) if context else current
            api = config.new_client_from_config(path, context, persist_config=False)
        except (config.ConfigException, OSError, yaml.YAMLError, TypeError, ValueError) as error:
            # A file that is YAML, but of another shape, ends the client with whatever it stumbled over.
            said = " ".join(str(error).split()).rstrip(".")
            raise environment(
                f"there is no usable kubeconfig: {said}. Set KUBECONFIG or give --kubeconfig; `finetune local` "
                "starts a cluster on this machine and prints its own"
            ) from error
        return cls(api, arguments.namespace or chosen["context"].get("namespace") or "default")

    def job(self, name: str, seconds: float = REQUEST_SECONDS) -> Body:
        """The FinetuneJob `name`."""
        return self._asked(
            f"reading {KIND} {name}",
            lambda: self._jobs.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, _request_timeout=seconds
            ),
            missing=lambda: self._no_such_job(name),
        )

    def names(self, seconds: float = REQUEST_SECONDS, *, limit: int | None = None) -> list[str]:
        """Names of the namespace's FinetuneJobs, the first `limit` of them."""
        more = {} if limit is None else {"limit": limit}
        found = self._asked(
            f"listing {KIND}s",
            lambda: self._jobs.list_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, _request_timeout=seconds, **more
            ),
            missing=lambda: f"this cluster does not know {KIND}s; install the operator's chart first",
        )
        return [item["metadata"]["name"] for item in found["items"]]

    def all_jobs(self, seconds: float = REQUEST_SECONDS) -> list[Body]:
        """The FinetuneJobs of all namespaces."""
        found: Body = self._asked(
            f"listing {KIND}s of all namespaces",
            lambda: self._jobs.list_cluster_custom_object(GROUP, VERSION, PLURAL, _request_timeout=seconds),
            missing=lambda: f"this cluster does not know {KIND}s; install the operator's chart first",
        )
        items: list[Body] = found["items"]
        return items

    def namespaces(self, seconds: float = REQUEST_SECONDS) -> list[str]:
        """Names of the cluster's namespaces."""
        found = self._asked("listing namespaces", lambda: self._core.list_namespace(_request_timeout=seconds))
        return [item.metadata.name for item in found.items]

    def patch(self, name: str, spec: Body) -> Body:
        """Merge `spec` into the job's own spec; the job as it is then."""
        return self._asked(
            f"changing {KIND} {name}",
            lambda: self._jobs.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, {"spec": spec}, _request_timeout=REQUEST_SECONDS
            ),
            missing=lambda: self._no_such_job(name),
        )

    def statuses(self, name: str, patience: float | None = None) -> Iterator[tuple[Body, Status]]:
        """The job and its status whenever that changes; the last one is final.

        Statuses of an earlier generation are left out. Raises CliError where the job is deleted meanwhile, or has not
        ended after `patience` seconds.
        """
        deadline = inf if patience is None else monotonic() + patience
        job = self.job(name)
        while True:
            status = _present_status(job)
            if status is not None:
                yield job, status
                if ended(status) is not None:
                    return
            left = deadline - monotonic()
            if left <= 0:
                was = f"it is {status.phase}: {status.message or ''}" if status else "it has no status yet"
                raise timed_out(f"{name} has not ended after {patience:g} s; {was}")
            job = self._changed(name, job["metadata"]["resourceVersion"], max(1, ceil(min(left, WATCH_SECONDS))))

    def secret(self, name: str) -> Body:
        """The Secret `name`, its values in base64."""
        found = self._asked(
            f"reading Secret {name}",
            lambda: self._core.read_namespaced_secret(name, self.namespace, _request_timeout=REQUEST_SECONDS),
            missing=lambda: f"the Secret {name}, which the job names, is not in namespace {self.namespace}",
        )
        return {"metadata": {"name": name}, "data": found.data or {}}

    def pods(self, job: str, stage: str) -> list[Body]:
        """The pods of a stage's attempts that are still there, oldest first."""
        selector = f"{labels.SELECTOR},{labels.JOB}={job},{labels.STAGE}={stage}"
        found = self._asked(
            f"listing the pods of {job}",
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=REQUEST_SECONDS
            ),
        )
        items = [self._core.api_client.sanitize_for_serialization(item) for item in found.items]
        return sorted(items, key=lambda item: item["metadata"]["creationTimestamp"])

    def log(self, pod: str, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Lines of the trainer's log in `pod`, as they come where `follow` says so."""
        response = self._asked(
            f"reading the log of pod {pod}",
            lambda: self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=labels.CONTAINER,
                follow=follow,
                tail_lines=tail,
                _preload_content=False,
                _request_timeout=(REQUEST_SECONDS, SILENT_SECONDS if follow else REQUEST_SECONDS),
            ),
            missing=lambda: f"pod {pod} is gone",
        )
        pending = b""
        for chunk in response.stream():
            *lines, pending = (pending + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if pending:
            yield pending.decode(errors="replace")

    def _changed(self, name: str, version: str, seconds: int) -> Body:
        """The job after its next change, or as it is where the watch was lost. Raises CliError once it is deleted."""
        stream = watch.Watch()
        try:
            events = stream.stream(
                self._jobs.list_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                field_selector=f"metadata.name={name}",
                resource_version=version,
                timeout_seconds=seconds,
            )
            for event in events:
                if event["type"] == "DELETED":
                    raise job_failed(f"{self.namespace}/{name} was deleted before it ended")
                return cast(Body, event["object"])
        except client.ApiException as error:
            if error.status != GONE:
                raise self._refused(f"watching {KIND} {name}", error) from error
        except urllib3.exceptions.HTTPError:
            # The connection broke; whether the server is there at all, the next reading tells.
            pass
        finally:
            stream.stop()
        return self.job(name)

    def _no_such_job(self, name: str) -> str:
        names = ", ".join(self.names(limit=20)) or "none"
        return f"there is no {KIND} {name} in namespace {self.namespace}; there: {names}. -n names another namespace"

    def _asked(self, doing: str, call: Callable[[], Any], *, missing: Callable[[], str] | None = None) -> Any:
        try:
            return call()
        except client.ApiException as error:
            if error.status == 404 and missing is not None:
                raise invalid(missing()) from error
            raise self._refused(doing, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise environment(
                f"{doing}: the API server at {self._core.api_client.configuration.host} does not answer "
                f"({type(error).__name__}). Is the cluster up, and the kubeconfig's context the right one?"
            ) from error

    def _refused(self, doing: str, error: client.ApiException) -> Exception:
        if error.status in (401, 403):
            return environment(
                f"{doing} in namespace {self.namespace}: the API server refuses it ({error.status} {error.reason}). "
                "Ask for the ClusterRole that the chart aggregates to view or edit"
            )
        return environment(f"{doing}: {error.status} {error.reason}: {_message(error)}")


def _present_status(job: Body) -> Status | None:
    status = status_of(job)
    return status if status.observed_generation == job["metadata"]["generation"] else None


def _message(error: client.ApiException) -> str:
    return " ".join(str(error.body or "").split())[:500]


def _context(contexts: list[Body], name: str) -> Body:
    found = next((item for item in contexts if item["name"] == name), None)
    if found is None:
        raise invalid(f"the kubeconfig has no context {name}; there: {', '.join(item['name'] for item in contexts)}")
    return found


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


def _pod_namespace() -> str:
    with open(NAMESPACE_FILE, encoding="utf-8") as file:  # noqa: PTH123  (one read of a mounted file)
        return file.read().strip()
