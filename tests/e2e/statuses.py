"""Every FinetuneJob that an end-to-end test looks at is judged by Argo CD's health check too, and can be kept."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..argocd import expected, health
from .api import Body

# A folder for what was seen, one file for each kind: tests/golden/statuses is made so.
RECORD = "FINETUNE_E2E_RECORD"
KEPT = ("name", "generation")


def judge(body: Body) -> None:
    """Run the health check on a FinetuneJob as the API server shows it."""
    found, message = health(body)
    assert found == expected(body), f"Argo CD would call it {found} ({message}): {json.dumps(body.get('status'))}"
    assert message
    folder = os.environ.get(RECORD)
    if folder:
        _keep(body, found, Path(folder))


def _keep(body: Body, found: str, folder: Path) -> None:
    """Write the object down, unless one of its kind is: by health, stage and reason."""
    status = body.get("status") or {}
    reasons = {item["type"]: item["reason"] for item in status.get("conditions", [])}
    words = [found, status.get("stage") or "", reasons.get("Succeeded", "new")]
    path = folder / ("-".join(re.sub(r"\W", "", word) for word in words if word) + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        metadata = {name: body["metadata"][name] for name in KEPT}
        path.write_text(json.dumps({"metadata": metadata, "status": status}, indent=1, sort_keys=True) + "\n")
