"""What the end-to-end tests do about the definitions of a cluster that they are given, tried on a local one."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e import definitions
from tests.e2e.api import CRDS, FINETUNE_JOBS, Api

from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd

from .conftest import Bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOB = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FinetuneJob",
    "metadata": {"name": "theirs"},
    "spec": {
        "inputModel": {"modelPath": "s3://bucket/model"},
        "passes": [{"name": "builder", "type": "ModelBuilder", "config": {"precision": "int4"}}],
        "storage": {"uri": "s3://bucket/out"},
    },
}


async def test_what_the_tests_defined_goes_again_unless_somebody_uses_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "GONE_SECONDS", 0.2)
    await asyncio.to_thread(_go_again, Api(bench.cluster.kubeconfig))


def _go_again(api: Api) -> None:
    both = [crd(), policy_crd()]
    assert [definitions.defined(api, item, renew=True) for item in both] == [True, True]
    assert [definitions.defined(api, item, renew=True) for item in both] == [False, False]
    jobs = FINETUNE_JOBS.format(namespace="default")
    api.create(jobs, JOB)
    with pytest.warns(UserWarning, match="the CRD of finetunejobs is kept"):
        definitions.undefine(api, both)
    left = [item["metadata"]["name"] for item in api.get(CRDS)["items"] if item["spec"]["group"] == "finetune.dev"]
    assert left == ["finetunejobs.finetune.dev"]
    api.delete(f"{jobs}/theirs")
    definitions.undefine(api, both[:1])
    assert not api.exists(f"{CRDS}/finetunejobs.finetune.dev")
