"""Write what follows from the types in `finetune_api`: the CRDs, docs/api.md, the editors' schema."""

import json
from pathlib import Path
from typing import Any

import yaml

from api_reference import reference
from editor_schema import editor_schema
from finetune_api.crd import crd
from finetune_api.job import JobSpec
from finetune_api.policy import PolicySpec
from finetune_api.policy_crd import policy_crd
from manifest_schema import SCHEMAS, VERSION, manifest_schema

HEADER = "# Generated from crds/finetune_api by `make crds`; do not edit.\n"
HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "finetune-operator" / "files" / "crds"
ROOTS = [
    ("FinetuneJob", "What a user applies: `finetune.dev/v1alpha1`, namespaced, short `ftj`.", JobSpec),
    (
        "FinetunePolicy",
        "What the platform team allows: `finetune.dev/v1alpha1`, cluster-scoped, short `ftp`; see "
        "[Tenants](tenants.md).",
        PolicySpec,
    ),
]


def render() -> dict[str, str]:
    """File name → content, for every CRD."""
    return dict(_rendered(definition) for definition in (crd(), policy_crd()))


def _rendered(definition: dict[str, Any]) -> tuple[str, str]:
    group, plural = definition["spec"]["group"], definition["spec"]["names"]["plural"]
    text = yaml.safe_dump(definition, sort_keys=False, width=110, allow_unicode=True)
    return f"{group}_{plural}.yaml", HEADER + text


def render_docs() -> dict[Path, str]:
    """File → content, for all that people and editors read."""
    return {
        HERE.parent / "docs" / "api.md": reference(ROOTS),
        **{
            HERE.parent / "docs" / "schemas" / f"{name}.v{VERSION}.json": json.dumps(
                manifest_schema(model), indent=1, ensure_ascii=False
            )
            + "\n"
            for name, model in SCHEMAS.items()
        },
        HERE / "finetunejob.schema.json": json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for folder in (HERE, CHART):
        for name, content in render().items():
            (folder / name).write_text(content)
    for path, content in render_docs().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
