"""The CustomResourceDefinition of FinetunePolicy, generated from its types as the job's is."""

from __future__ import annotations

from finetune_api import GROUP, POLICY_KIND, POLICY_PLURAL, VERSION
from finetune_api.policy import PolicySpec
from finetune_api.structural import Schema, structural

COLUMNS = [
    {"name": "GPUs", "type": "integer", "jsonPath": ".spec.limits.maxGpus"},
    {"name": "Remote code", "type": "boolean", "jsonPath": ".spec.allowRemoteCode"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]


def policy_crd() -> Schema:
    """The CRD of FinetunePolicy as a dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{POLICY_PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": POLICY_KIND,
                "listKind": f"{POLICY_KIND}List",
                "plural": POLICY_PLURAL,
                "singular": POLICY_KIND.lower(),
                "shortNames": ["ftp"],
                "categories": ["finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> Schema:
    return {
        "type": "object",
        "description": "What the platform team allows the FinetuneJobs of a set of namespaces.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "finetune.dev/v1alpha1."},
            "kind": {"type": "string", "description": "FinetunePolicy."},
            "metadata": {"type": "object"},
            "spec": _spec(),
        },
    }


def _spec() -> Schema:
    schema = structural(PolicySpec, "What it allows and adds.")
    selector = schema["properties"]["namespaceSelector"]["properties"]["matchExpressions"]["items"]
    selector["x-kubernetes-validations"] = [
        {
            "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "message": "values belong to In and NotIn, which need at least one",
            "fieldPath": ".values",
        }
    ]
    variable = schema["properties"]["pods"]["properties"]["env"]["items"]
    variable["x-kubernetes-validations"] = [
        {
            "rule": "!self.name.startsWith('FINETUNE_')",
            "message": "FINETUNE_ is the operator's own prefix",
            "fieldPath": ".name",
        }
    ]
    return schema
