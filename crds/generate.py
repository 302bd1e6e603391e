"""Write the CustomResourceDefinitions beside this file and into the chart, from the types in `finetune_api`."""

from pathlib import Path
from typing import Any

import yaml

from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd

HEADER = "# Generated from crds/finetune_api by `make crds`; do not edit.\n"


def render() -> dict[str, str]:
    """File name → content, for every CRD."""
    return dict(_rendered(definition) for definition in (crd(), policy_crd()))


def _rendered(definition: dict[str, Any]) -> tuple[str, str]:
    group, plural = definition["spec"]["group"], definition["spec"]["names"]["plural"]
    text = yaml.safe_dump(definition, sort_keys=False, width=110, allow_unicode=True)
    return f"{group}_{plural}.yaml", HEADER + text


if __name__ == "__main__":
    here = Path(__file__).parent
    for folder in (here, here.parent / "helm" / "finetune-operator" / "files" / "crds"):
        for name, content in render().items():
            (folder / name).write_text(content)
