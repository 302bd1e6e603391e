"""One cluster, one operator and one tiny model for all end-to-end tests of a session; a namespace for each test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd

from .api import FINETUNE_POLICIES, NAMESPACES, PATIENCE, SECRETS, Body
from .definitions import defined, undefine
from .jobs import Inputs, Tenant
from .places import SECRET, Operator, Place, is_installed, place

EXAMPLE = Path(__file__).parents[2] / "examples" / "phi3-emotions"
TEST_ROWS = 24
# Seconds of a test, as in pyproject.toml.
TIMEOUT = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may take longer where all that it waits for may; an operator that is not the tests' own is let be."""
    for item in items:
        if is_installed() and item.get_closest_marker("owns_operator"):
            item.add_marker(
                pytest.mark.skip(reason="FINETUNE_E2E_OPERATOR=installed: it stops or replaces the operator")
            )
        given = item.get_closest_marker("timeout")
        if PATIENCE > 1 and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout((given.args[0] if given else TIMEOUT) * PATIENCE), append=False)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster that knows FinetuneJobs and FinetunePolicies; the definitions that it had to be given go again."""
    with place(tmp_path_factory.mktemp("cluster")) as found:
        # A cluster that is kept may have them of another day; where an operator is installed, they are its chart's.
        renew = not found.local and not is_installed()
        made = [definition for definition in (crd(), policy_crd()) if defined(found.api, definition, renew=renew)]
        yield found
        # Other workers of the same run may be at work with them still.
        if made and not found.local and "PYTEST_XDIST_WORKER" not in os.environ:
            undefine(found.api, made)


@pytest.fixture(scope="session")
def _operator(cluster: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    process = Operator(cluster, tmp_path_factory.mktemp("operator") / "operator.log")
    yield process
    process.stop()


@pytest.fixture
def operator(_operator: Operator) -> Operator:
    """The running operator; one that an earlier test left dead is started again."""
    if _operator.process is None or _operator.process.poll() is not None:
        _operator.start()
    return _operator


@pytest.fixture(scope="session")
def inputs(cluster: Place, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """The emotion example's data and a base model trained for a moment, in the cluster's storage."""
    folder = tmp_path_factory.mktemp("inputs")
    _script("make_data.py", "--out", str(folder), "--seed", "7")
    _script("make_base_model.py", "--out", str(folder / "base"), "--seed", "7", "--steps", "40")
    few = (folder / "test-seen.jsonl").read_text().splitlines(keepends=True)[:TEST_ROWS]
    (folder / "few.jsonl").write_text("".join(few))
    root = f"{cluster.root}/e2e/{uuid.uuid4().hex[:8]}"
    found = Inputs(f"{root}/base", f"{root}/train.jsonl", f"{root}/few.jsonl")
    cluster.bucket.upload(folder / "base", found.base)
    cluster.bucket.upload(folder / "train.jsonl", found.train)
    cluster.bucket.upload(folder / "few.jsonl", found.test)
    return found


def _script(name: str, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(EXAMPLE / name), *arguments], check=True, env=environment, timeout=120 * PATIENCE
    )


@pytest.fixture
def new_tenant(cluster: Place, operator: Operator, inputs: Inputs) -> Iterator[Callable[[], Tenant]]:
    """Makes namespaces of the test's own, with the storage's Secret: results are never re-used across namespaces.

    A real cluster lets only restricted pods into them.
    """
    made: list[Tenant] = []

    def make() -> Tenant:
        name = f"e2e-{uuid.uuid4().hex[:8]}"
        metadata = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        cluster.api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        found = Tenant(cluster, name, inputs)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": name},
            "stringData": dict(cluster.credentials),
        }
        cluster.api.create(found.path(SECRETS), secret)
        made.append(found)
        return found

    yield make
    for item in made:
        cluster.api.delete(f"{NAMESPACES}/{item.namespace}")


@pytest.fixture
def tenant(new_tenant: Callable[[], Tenant]) -> Tenant:
    """A namespace of the test's own."""
    return new_tenant()


@pytest.fixture
def policy(tenant: Tenant) -> Iterator[Callable[[Body], None]]:
    """Creates the policy of the tenant's namespace, or merges into it; it is deleted after the test."""
    api, name = tenant.place.api, f"e2e-{tenant.namespace}"
    path = f"{FINETUNE_POLICIES}/{name}"

    def put(spec: Body) -> None:
        if api.exists(path):
            api.patch(path, {"spec": spec})
            return
        selector = {"matchLabels": {"kubernetes.io/metadata.name": tenant.namespace}}
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetunePolicy", "metadata": {"name": name}}
        api.create(
            FINETUNE_POLICIES, {**body, "spec": {"namespaceSelector": selector, **spec}}, fieldValidation="Strict"
        )

    yield put
    api.delete(path)
