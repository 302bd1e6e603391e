"""What every type of the API shares: camelCase on the wire, closed objects, and markers for fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A closed, immutable object: unknown keys are errors, names on the wire are camelCase."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def wire(self) -> dict[str, Any]:
        """The object as JSON holds it: camelCase, defaults written out, absent optional fields left out."""
        return self.model_dump(mode="json", exclude_none=True)


class NoEffect:
    """Marks a field that changes how a stage reports or saves, never what it computes.

    Such fields stay outside the content key (`finetune_api.keys`), so editing them re-uses results. `unless` names a
    property of the field's object: where it is true, the field has an effect after all.
    """

    def __init__(self, unless: str | None = None) -> None:
        self.unless = unless

    def holds(self, model: BaseModel) -> bool:
        """Whether the field has no effect in `model`."""
        return self.unless is None or not getattr(model, self.unless)


class ListMap:
    """Marks a list whose items are told apart by a key field: `x-kubernetes-list-type: map`."""

    def __init__(self, key: str = "name") -> None:
        self.key = key


class Quantity:
    """Marks a Kubernetes quantity, which YAML may give as a number or as a string."""


# A pass, system, data set or evaluator. Olive's own names have underscores; both cases fit a label value.
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9]([-_A-Za-z0-9]*[A-Za-z0-9])?$")
]
# The name of a Kubernetes object (RFC 1123 subdomain).
ObjectName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
# An object's name that is a label's value too, which has room for 63 characters.
LabelName = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    ),
]
SecretKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SecretKeyRef(Model):
    """One key of a Secret in the job's own namespace."""

    name: ObjectName = Field(description="The Secret's name, in the job's own namespace.")
    key: SecretKey = Field(description="The key in the Secret's data.")


class SecretRef(Model):
    """A Secret in the job's own namespace."""

    name: ObjectName = Field(description="The Secret's name, in the job's own namespace.")


class ConfigMapKeyRef(Model):
    """One key of a ConfigMap in the job's own namespace."""

    name: ObjectName = Field(description="The ConfigMap's name, in the job's own namespace.")
    key: SecretKey = Field("ca.crt", description="The key in the ConfigMap's data.")
