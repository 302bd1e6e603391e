"""What is installed in the trainer image, as this installation's own metadata has it."""

from __future__ import annotations

import re
from importlib import metadata

from finetune_api.olive.conda import normalised

DISTRIBUTION = "finetune-operator"
_TRAINER_EXTRAS = ("trainer-light", "trainer-base", "trainer", "trainer-cuda")
# trainer-image/requirements-models.txt, which no distribution declares.
MODEL_PACKAGES = ("einops==0.8.2", "scipy==1.17.1", "sentencepiece==0.2.3", "tiktoken==0.14.0")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def trainer_packages() -> dict[str, str]:
    """Requirement by normalised name: what the image asks for itself, and what that brings along where it is here."""
    found = {_name(requirement): requirement for requirement in MODEL_PACKAGES}
    for requirement in _requirements(DISTRIBUTION):
        extra = _EXTRA.search(requirement)
        if (extra is None or extra[1] in _TRAINER_EXTRAS) and _name(requirement) != DISTRIBUTION:
            found.setdefault(_name(requirement), requirement.split(";", 1)[0].strip())
    waiting = list(found)
    while waiting:
        parent = waiting.pop()
        for requirement in _requirements(parent):
            name = _name(requirement)
            if _EXTRA.search(requirement) is None and name not in found:
                found[name] = f"a dependency of {parent}"
                waiting.append(name)
    return found


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return normalised(found[0]) if found else requirement
