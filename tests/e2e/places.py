"""Where the end-to-end tests run: a local cluster of their own, or the one that the environment names."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.storage import Storage
from finetune_cli.bucket import Bucket
from finetune_cli.stack import OPERATOR_SETTINGS

from .api import PATIENCE, SECRETS, Api, wait_for
from .storage import Served, serve

SECRET = "finetune-storage"


@dataclass(frozen=True)
class Place:
    """A cluster with object storage. `endpoint` is the storage as pods reach it, `bucket` as the tests do."""

    kubeconfig: Path
    endpoint: str
    root: str
    credentials: Mapping[str, str]
    bucket: Bucket
    api: Api
    local: bool


@dataclass
class Operator:
    """The operator as a process of the tests, which may kill it."""

    place: Place
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        if is_installed():
            # It runs in the cluster already; tests that stop or kill their own are not for it.
            return
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FINETUNE_")},
            **OPERATOR_SETTINGS,
            "KUBECONFIG": str(self.place.kubeconfig),
        }
        if "FINETUNE_TRAINER_IMAGE" in os.environ:
            environment["FINETUNE_TRAINER_IMAGE"] = os.environ["FINETUNE_TRAINER_IMAGE"]
            # The image may have been loaded into the nodes, under whatever tag, and be in no registry.
            environment["FINETUNE_IMAGE_PULL_POLICY"] = "IfNotPresent"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL: no time for a last word."""
        assert self.process is not None
        assert self.process.poll() is None, f"the operator died by itself:\n{self.log.read_text()[-3000:]}"
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=15 * PATIENCE)


def is_installed() -> bool:
    """Whether the cluster has an operator already, which the tests are to use."""
    return os.environ.get("FINETUNE_E2E_OPERATOR") == "installed"


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """The cluster to test on; a local one is made in `folder` and stopped afterwards."""
    if os.environ.get("FINETUNE_E2E_CLUSTER") == "1":
        with _given(folder) as found:
            yield found
    else:
        with _local(folder) as found:
            yield found


@contextmanager
def _given(folder: Path) -> Iterator[Place]:
    """The cluster of KUBECONFIG, with the storage that FINETUNE_E2E_S3_* name, or else one of the tests' own."""
    kubeconfig = Path(os.environ["KUBECONFIG"])
    api, name = Api(kubeconfig), os.environ.get("FINETUNE_E2E_S3_BUCKET", "finetune")
    with ExitStack() as stack:
        named = _named_storage()
        storage = named or stack.enter_context(serve(folder / "s3", api.url, name))
        root = f"s3://{name}"
        bucket = Bucket(Storage(uri=root, endpoint=storage.here), storage.credentials)
        yield Place(kubeconfig, storage.endpoint, root, storage.credentials, bucket, api, local=False)


def _named_storage() -> Served | None:
    """The S3 server that the environment names (docs/local.md)."""
    endpoint = os.environ.get("FINETUNE_E2E_S3_ENDPOINT")
    if endpoint is None:
        return None
    keys = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
    credentials = {f"AWS_{key}": os.environ[f"FINETUNE_E2E_S3_{key}"] for key in keys}
    return Served(endpoint, os.environ.get("FINETUNE_E2E_S3_ENDPOINT_HERE", endpoint), credentials)


@contextmanager
def _local(folder: Path) -> Iterator[Place]:
    """`finetune local`, as a user starts it, but for its ports and without its own operator."""
    log = folder / "local.log"
    command = [sys.executable, "-m", "finetune_cli", "local", "--state", str(folder / "cluster")]
    command += ["--api-port", "0", "--s3-port", "0", "--no-example", "--no-operator"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        said = wait_for(f"the local cluster to be up, see {log}", lambda: _said(process, log), 60)
        kubeconfig, endpoint = Path(said[0]), said[1]
        api = Api(kubeconfig)
        data = api.get(f"{SECRETS.format(namespace='default')}/{SECRET}")["data"]
        credentials = {name: base64.b64decode(value).decode() for name, value in data.items()}
        root = "s3://finetune"
        bucket = Bucket(Storage(uri=root, endpoint=endpoint), credentials)
        yield Place(kubeconfig, endpoint, root, credentials, bucket, api, local=True)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def _said(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str] | None:
    text = log.read_text()
    assert process.poll() is None, f"the local cluster ended:\n{text[-3000:]}"
    kubeconfig = re.search(r"export KUBECONFIG=(\S+)", text)
    endpoint = re.search(r"object storage\s+(http\S+?),", text)
    return (kubeconfig[1], endpoint[1]) if kubeconfig and endpoint else None
