"""`pull`: a published artifact into a folder, every file checked, for whoever serves it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_api import layout
from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.store import ArtifactStore
from finetune_trainer.verify import add_connection, opened

MANIFEST_PATH = "status.artifacts[].manifest"
DIGEST_PATH = "status.artifacts[].digest"


def pull(store: ArtifactStore, key: str, digest: str, folder: Path) -> int:
    """Fetches the output of the stage `key`, whose manifest has the sha256 `digest`; how many bytes it has.

    Raises StageFailure (NotPublished, InputChanged, ArtifactCorrupt).
    """
    found = store.read_manifest(key)
    if found is None:
        missing = problem(MANIFEST_PATH, key, "there is no such manifest", "Take the one that the job's status names.")
        raise bad_input(Reason.NOT_PUBLISHED, missing)
    if found.digest != digest:
        remedy = "Take manifest and digest from the status of one job."
        changed = problem(DIGEST_PATH, digest, f"its manifest has {found.digest}", remedy)
        raise bad_input(Reason.INPUT_CHANGED, changed)
    store.download(found.manifest, folder)
    return found.size


def main(words: Sequence[str]) -> int:
    """Pulls; returns 0, or 1 where the artifact is not the one that was asked for or cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m finetune_trainer pull", description=__doc__)
    parser.add_argument("where", metavar="manifest", help="s3:// URI of the artifact's manifest, as status has it")
    parser.add_argument("folder", type=Path, help="where its files go")
    parser.add_argument("--digest", required=True, help="sha256 of the manifest, as status has it")
    add_connection(parser)
    options = parser.parse_args(words)
    try:
        objects, folder = opened(options)
        key = folder.removeprefix("stages/")
        if layout.manifest_path(key) != f"{folder}/manifest.json":
            parser.error(f"{options.where} is no artifact's manifest: …/stages/KEY/manifest.json")
        size = pull(ArtifactStore(objects, options.where), key, options.digest, options.folder)
    except StageFailure as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    sys.stdout.write(f"{options.folder}: {size} bytes\n")
    return 0
