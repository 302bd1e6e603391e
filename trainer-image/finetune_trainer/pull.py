"""`pull`: a published artifact into a folder, every file checked, for whoever serves it.

Its manifest lies beside its files, as `finetune download` has it: `verify` checks such a folder, and the next pull
knows by it which files an earlier one left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from finetune_api import layout
from finetune_api.problems import problem
from finetune_api.stage import Manifest, Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.store import ArtifactStore, is_inside
from finetune_trainer.verify import MANIFEST, add_connection, opened

MANIFEST_PATH = "status.artifacts[].manifest"
DIGEST_PATH = "status.artifacts[].digest"


def pull(store: ArtifactStore, key: str, digest: str, folder: Path) -> int:
    """Fetches the output of the stage `key`, whose manifest has the sha256 `digest`; how many bytes it has.

    Of another artifact that was pulled into `folder` before, nothing is left; what somebody else put there stays.
    Raises StageFailure (NotPublished, InputChanged, ArtifactCorrupt), and OSError where the folder cannot be written.
    """
    found = store.read_manifest(key)
    if found is None:
        missing = problem(MANIFEST_PATH, key, "there is no such manifest", "Take the one that the job's status names.")
        raise bad_input(Reason.NOT_PUBLISHED, missing)
    if found.digest != digest:
        remedy = "Take manifest and digest from the status of one job."
        changed = problem(DIGEST_PATH, digest, f"its manifest has {found.digest}", remedy)
        raise bad_input(Reason.INPUT_CHANGED, changed)
    _sweep(folder, found.manifest)
    # Before its files: a pull that is interrupted leaves none that the next one would not know.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_bytes(found.body)
    store.download(found.manifest, folder)
    return found.size


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Deletes the files that the manifest in `folder` names and `manifest` does not, and folders that this empties."""
    try:
        before = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return
    stale = {file.path for file in before.files} - {file.path for file in manifest.files}
    for path in sorted(filter(is_inside, stale)):
        (folder / path).unlink(missing_ok=True)
        for parent in (folder / path).parents[: path.count("/")]:
            # A folder that has other files stays.
            with suppress(OSError):
                parent.rmdir()


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
    except OSError as error:
        where = error.filename or options.folder
        sys.stderr.write(f"{where}: {error.strerror or error}. Give a folder that this user may write, with room.\n")
        return 1
    sys.stdout.write(f"{options.folder}: {size} bytes\n")
    return 0
