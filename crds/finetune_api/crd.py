"""The CustomResourceDefinition, generated from the types.

A structural OpenAPI v3 schema without defaults (they live in the types and in each description), and CEL rules
within the API server's cost budget. `crds/generate.py` writes it as YAML.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.base import Model
from finetune_api.builder import BLOCKWISE, PROVIDERS_OF, ModelBuilderConfig, Precision, Provider
from finetune_api.evaluators import METRIC_FIELDS, ROW_METRICS, Metric
from finetune_api.job import JobSpec
from finetune_api.passes import PASS_TYPES
from finetune_api.status import Status
from finetune_api.structural import describe_default, structural

Schema = dict[str, Any]

COLUMNS = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Stage", "type": "string", "jsonPath": ".status.stage"},
    {"name": "Progress", "type": "string", "jsonPath": ".status.progress"},
    {"name": "Loss", "type": "string", "jsonPath": ".status.loss"},
    {
        "name": "Reason",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Succeeded")].reason',
        "priority": 1,
    },
    {"name": "Message", "type": "string", "jsonPath": ".status.message", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]

# Together these say what `rules.passes.order_of_passes` says, without an index: not every CEL knows `exists(i, x, …)`.
# With one training pass, one merge and the builder last, the order needs no more than who is first.
MERGE_BEFORE_BUILD = (
    "!self.passes.exists(b, b.type == 'ModelBuilder') || "
    "!(has(self.inputModel.adapterPath) || self.passes.exists(a, a.type in ['LoRA', 'QLoRA', 'DoRA'])) || "
    "self.passes.exists(m, m.type == 'MergeAdapterWeights' || "
    "(has(m.config) && has(m.config.adapter) && m.config.adapter == 'unmerged'))"
)
ADAPTER_BEFORE_MERGE = (
    "!self.passes.exists(m, m.type == 'MergeAdapterWeights') || has(self.inputModel.adapterPath) || "
    "self.passes.exists(a, a.type in ['LoRA', 'QLoRA', 'DoRA'])"
)
TRAINING_FIRST = (
    "!self.passes.exists(a, a.type in ['LoRA', 'QLoRA', 'DoRA']) || self.passes[0].type != 'MergeAdapterWeights'"
)
ONE_MERGE = "self.passes.filter(p, p.type == 'MergeAdapterWeights').size() <= 1"
NO_UNMERGED_DORA = (
    "!self.passes.exists(d, d.type == 'DoRA') || "
    "!self.passes.exists(b, has(b.config) && has(b.config.adapter) && b.config.adapter == 'unmerged')"
)
BUILDER_LAST = (
    "self.passes.filter(p, p.type == 'ModelBuilder').size() == 0 || "
    "(self.passes.filter(p, p.type == 'ModelBuilder').size() == 1 && "
    "self.passes[size(self.passes) - 1].type == 'ModelBuilder')"
)
ONE_TRAINING = "self.passes.filter(p, p.type in ['LoRA', 'QLoRA', 'DoRA']).size() <= 1"


def crd() -> Schema:
    """The CRD of FinetuneJob as a dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    return {
        "type": "object",
        "description": "Fine-tunes a language model: the passes of its spec run one after the other, each as a pod.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "finetune.dev/v1alpha1."},
            "kind": {"type": "string", "description": "FinetuneJob."},
            "metadata": {"type": "object"},
            "spec": _spec(),
            "status": structural(Status, "What became of the job; written by the operator alone."),
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.metadata.name.size() <= 63",
                "message": "metadata.name: at most 63 characters, so that it fits a label",
            }
        ],
    }


def _spec() -> Schema:
    schema = structural(JobSpec, "What the job asks for.", special={"passes": _passes})
    system = schema["properties"]["systems"]["items"]
    system["x-kubernetes-validations"] = [_rule(_alone(system), "systemRef: give name and systemRef alone")]
    schema["x-kubernetes-validations"] = [
        _rule(
            MERGE_BEFORE_BUILD,
            "put MergeAdapterWeights between the adapter's pass and ModelBuilder",
            ".passes",
        ),
        _rule(
            ADAPTER_BEFORE_MERGE,
            "MergeAdapterWeights needs LoRA, QLoRA or DoRA before it, or inputModel.adapterPath",
            ".passes",
        ),
        _rule(TRAINING_FIRST, "LoRA, QLoRA or DoRA must come first: they train on inputModel", ".passes"),
        _rule(ONE_MERGE, "at most one MergeAdapterWeights pass: there is one adapter to merge", ".passes"),
        _rule(BUILDER_LAST, "ModelBuilder must be the last pass: its ONNX model is final", ".passes"),
        _rule(ONE_TRAINING, "at most one LoRA, QLoRA or DoRA pass; use one job for each", ".passes"),
        _rule(NO_UNMERGED_DORA, "config.adapter unmerged is not for DoRA: put MergeAdapterWeights between", ".passes"),
        *_provider_rules(),
    ]
    metric = schema["properties"]["evaluators"]["items"]["properties"]["metrics"]["items"]
    metric["x-kubernetes-validations"] = _metric_rules()
    return schema


def _metric_rules() -> list[Schema]:
    """A metric's fields are those of its type, and metrics about rows name them."""
    rows = json.dumps(sorted(ROW_METRICS))
    rules = [_rule(f"!(self.type in {rows}) || has(self.dataConfig)", "dataConfig is required for this type")]
    for name in sorted(frozenset().union(*METRIC_FIELDS.values())):
        field = Metric.model_fields[name].alias
        types = sorted(kind for kind, names in METRIC_FIELDS.items() if name in names)
        rules.append(
            _rule(f"!has(self.{field}) || self.type in {json.dumps(types)}", f"{field} is only for {', '.join(types)}")
        )
    return rules


def _alone(system: Schema) -> str:
    """CEL: beside systemRef there is nothing but the name."""
    others = [f"!has(self.{field})" for field in system["properties"] if field not in ("name", "systemRef")]
    return f"!has(self.systemRef) || ({' && '.join(others)})"


def _passes(info: FieldInfo) -> Schema:
    """One item type with the union of all passes' parameters; CEL refuses another type's fields."""
    common = structural(PASS_TYPES["LoRA"], "A pass.")
    merged, owners, required = _union({name: _config_of(model) for name, model in PASS_TYPES.items()})
    properties = {
        "name": common["properties"]["name"],
        "type": {
            "type": "string",
            "maxLength": 32,
            "enum": list(PASS_TYPES),
            "description": "What the pass does.",
        },
        "host": common["properties"]["host"],
        "evaluator": common["properties"]["evaluator"],
        "config": {
            "type": "object",
            "description": "The pass's parameters; which, depends on type.",
            "properties": merged,
        },
    }
    rules = [
        _rule(
            f"!has(self.config) || !has(self.config.{field}) || self.type in {json.dumps(sorted(types))}",
            f"config.{field} is only for {', '.join(sorted(types))}",
        )
        for field, types in owners.items()
        if set(types) != set(PASS_TYPES)
    ]
    rules += [
        _rule(
            f"!(self.type in {json.dumps(sorted(types))}) || (has(self.config) && has(self.config.{field}))",
            f"config.{field} is required for {', '.join(sorted(types))}",
        )
        for field, types in required.items()
    ]
    rules += _adapter_rules() + _builder_rules()
    item = {
        "type": "object",
        "description": "One pass.",
        "required": ["name", "type"],
        "properties": properties,
        "x-kubernetes-validations": rules,
    }
    return {
        "type": "array",
        "description": describe_default(info),
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "x-kubernetes-validations": [
            _rule("self.all(x, self.exists_one(y, y.name == x.name))", "passes must have unique names")
        ],
        "items": item,
    }


def _adapter_rules() -> list[Schema]:
    """What `rules.adapted_modules` says of one pass alone."""
    return [
        _rule(
            "!has(self.config) || !has(self.config.targetModules) || !('all-linear' in self.config.targetModules) || "
            "self.config.targetModules.size() == 1",
            "config.targetModules: all-linear stands alone",
        ),
        _rule(
            "!has(self.config) || !has(self.config.sharding) || self.config.sharding == 'none' || "
            "(self.type != 'DoRA' && !has(self.config.modulesToSave))",
            "config.sharding: fsdp is not for DoRA, and not with modulesToSave",
        ),
    ]


def _builder_rules() -> list[Schema]:
    """What `rules.builder_combinations` says of one pass alone."""
    rules = [
        _rule(
            f"!has(self.config) || !has(self.config.precision) || self.config.precision != '{precision}' || "
            f"!has(self.config.executionProvider) || self.config.executionProvider in {json.dumps(list(providers))}",
            _needs(precision, providers),
        )
        for precision, providers in PROVIDERS_OF.items()
        if len(providers) < len(PROVIDERS_OF["int4"])
    ]
    rules += [
        _rule(
            f"!has(self.config) || !has(self.config.{info.alias}) || !has(self.config.precision) || "
            f"self.config.precision in {json.dumps(BLOCKWISE)}",
            f"config.{info.alias} is only for precision {' or '.join(BLOCKWISE)}",
        )
        for name, info in ModelBuilderConfig.model_fields.items()
        if name.startswith("int4_")
    ]
    return rules


def _provider_rules() -> list[Schema]:
    """The same of passes that leave the provider to the engine, which leaves it to the CPU."""
    return [
        _rule(
            f"!self.passes.exists(b, has(b.config) && has(b.config.precision) && b.config.precision == '{precision}' "
            "&& !has(b.config.executionProvider)) || (has(self.engine) && has(self.engine.executionProviders) ? "
            f"self.engine.executionProviders.all(e, e in {json.dumps(list(providers))}) : "
            f"{json.dumps('cpu' in providers)})",
            _needs(precision, providers),
            ".passes",
        )
        for precision, providers in PROVIDERS_OF.items()
        if len(providers) < len(PROVIDERS_OF["int4"])
    ]


def _needs(precision: Precision, providers: Sequence[Provider]) -> str:
    return f"config.precision {precision} needs config.executionProvider {' or '.join(providers)}"


def _config_of(model: type[Model]) -> type[Model]:
    annotation = model.model_fields["config"].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Model)):
        raise TypeError(f"{model.__name__}.config is no Model")
    return annotation


def _union(configs: dict[str, type[Model]]) -> tuple[Schema, dict[str, list[str]], dict[str, list[str]]]:
    """All types' properties; by field, the types that have it; by field, the types that require it."""
    merged: Schema = {}
    owners: dict[str, list[str]] = {}
    required: dict[str, list[str]] = {}
    for name, model in configs.items():
        schema = structural(model, "")
        for field, definition in schema.get("properties", {}).items():
            if merged.setdefault(field, definition) != definition:
                raise ValueError(f"passes disagree about config.{field}; one name must have one meaning")
            owners.setdefault(field, []).append(name)
        for field in schema.get("required", []):
            required.setdefault(field, []).append(name)
    return merged, owners, required


def _rule(rule: str, message: str, path: str | None = None) -> Schema:
    found = {"rule": rule, "message": message}
    return {**found, "fieldPath": path} if path else found
