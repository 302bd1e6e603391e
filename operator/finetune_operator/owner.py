"""The FinetuneJob that objects belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION, KIND


@dataclass(frozen=True)
class Owner:
    """The FinetuneJob that an object belongs to."""

    namespace: str
    name: str
    uid: str
    generation: int

    def reference(self) -> dict[str, Any]:
        """The ownerReference by which Kubernetes deletes the object with its job."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
