"""`finetune create NAME`: a starter job from a few flags, on stdout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_cli.arguments import add_output, dumped
from finetune_cli.checks import problems_of
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.localise import PLACEHOLDER_ENDPOINT, LocalStorage, localise

DESCRIPTION = """\
Write a job to start from: LoRA or QLoRA, merge, int4 ONNX. Nothing is applied:

  finetune create tones --model microsoft/Phi-3-mini-4k-instruct --data s3://data/train.jsonl \\
    --columns phrase,tone --storage s3://models/team-a --secret s3-keys > job.yaml

With --local the job is one for `finetune run`: --model and --data may be paths, there is no GPU, and no --storage.

  finetune create tones --local --model ./base --data train.jsonl --columns phrase,tone > tones.yaml
  finetune run tones.yaml
"""
# Where `run` will put it is not known yet; that it has a place is all that matters for whether the job is valid.
ANYWHERE = LocalStorage("s3://finetune", PLACEHOLDER_ENDPOINT, "finetune-storage")
# Text between two columns where no template is given; the last column is what is learned.
SEPARATOR = "\n"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("name", metavar="JOB", help="the job's name")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="default: none, so that kubectl's own holds")
    parser.add_argument("--model", required=True, help="hub id, s3:// or pvc:// URI of the base model")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--data", required=True, action="append", metavar="URI", help="training rows; may be repeated")
    parser.add_argument(
        "--columns",
        default="text",
        metavar="A,B",
        help="the columns that make a text; the last is learned (%(default)s)",
    )
    parser.add_argument("--template", help="a row's text, with {column} where a column's value stands")
    parser.add_argument("--max-seq-len", type=int, default=1024, metavar="N", help="tokens of a sample (%(default)s)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--storage", metavar="URI", help="where outputs go: s3://bucket/prefix")
    where.add_argument("--local", action="store_true", help="a job for `finetune run`, on this machine")
    parser.add_argument("--endpoint", metavar="URL", help="the S3 server; default: AWS")
    parser.add_argument("--secret", metavar="NAME", help="Secret with the storage's keys")
    parser.add_argument("--hub-token", metavar="NAME", help="Secret with the hub's token, under the key token")
    parser.add_argument("--qlora", action="store_true", help="QLoRA instead of LoRA")
    parser.add_argument("--rank", type=int, default=64, metavar="R", help="rank of the adapter (%(default)s)")
    parser.add_argument("--epochs", type=float, default=3, metavar="N", help="(%(default)s)")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="0 trains on the CPU (%(default)s)")
    parser.add_argument("--no-onnx", action="store_true", help="end with the merged model")
    add_output(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the job; 2 where the flags do not make a valid one."""
    job = starter(arguments)
    runnable = localise(job, Path.cwd(), ANYWHERE, cpu=True).job if arguments.local else job
    found = problems_of(runnable)
    if found:
        raise invalid("\n".join(["these flags make no valid job:", *(f"  {item}" for item in found)]))
    print(dumped(job, arguments.output or "yaml"), end="")
    return ExitCode.OK


def starter(arguments: argparse.Namespace) -> dict[str, Any]:
    """The job that the flags describe."""
    metadata = {"name": arguments.name, **({"namespace": arguments.namespace} if arguments.namespace else {})}
    spec = {
        "inputModel": _model(arguments),
        "dataConfigs": [_data(arguments)],
        "systems": [_system(arguments)],
        "passes": _passes(arguments),
        "engine": {"host": "trainer"},
    }
    if not arguments.local:
        spec["storage"] = _storage(arguments)
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def _model(arguments: argparse.Namespace) -> dict[str, Any]:
    model: dict[str, Any] = {"type": "HfModel", "modelPath": arguments.model}
    if arguments.revision:
        model["revision"] = arguments.revision
    if arguments.hub_token:
        model["tokenSecretRef"] = {"name": arguments.hub_token, "key": "token"}
    return model


def _data(arguments: argparse.Namespace) -> dict[str, Any]:
    columns = arguments.columns.split(",")
    template = arguments.template or SEPARATOR.join(f"{{{column}}}" for column in columns)
    process: dict[str, Any] = {"textCols": columns, "textTemplate": template, "maxSeqLen": arguments.max_seq_len}
    if len(columns) > 1:
        process["completionOnlyLoss"] = True
    return {
        "name": "train",
        "type": "HuggingfaceContainer",
        "loadDatasetConfig": {"dataName": "json", "dataFiles": arguments.data},
        "preProcessDataConfig": process,
    }


def _system(arguments: argparse.Namespace) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(arguments.gpus)} if arguments.gpus and not arguments.local else {}
    return {"name": "trainer", "resources": {"limits": gpus}} if gpus else {"name": "trainer"}


def _passes(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    training = {"numTrainEpochs": arguments.epochs, "learningRate": 2e-4, "lrSchedulerType": "cosine"}
    passes: list[dict[str, Any]] = [
        {
            "name": "train",
            "type": "QLoRA" if arguments.qlora else "LoRA",
            "config": {"trainDataConfig": "train", "r": arguments.rank, "trainingArgs": training},
        },
        {"name": "merge", "type": "MergeAdapterWeights"},
    ]
    if not arguments.no_onnx:
        passes.append({"name": "onnx", "type": "ModelBuilder", "config": {"precision": "int4"}})
    return passes


def _storage(arguments: argparse.Namespace) -> dict[str, Any]:
    storage: dict[str, Any] = {"uri": arguments.storage}
    if arguments.endpoint:
        storage["endpoint"] = arguments.endpoint
    if arguments.secret:
        storage["credentialsSecretRef"] = {"name": arguments.secret}
    return storage
