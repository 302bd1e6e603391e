"""A container's environment and words: references resolved, `$(VAR)` expanded, paths and names made local. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING
from pathlib import Path, PurePosixPath

from finetune_local.client import CONFIG_MAPS, SECRETS, Object, Resource
from finetune_local.node.quantities import parse
from finetune_local.node.values import Objects, field_value, text_of

REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_][-A-Za-z0-9_.]*)\))")
# Directories of every machine: the parent of a mount, but never only that.
SYSTEM_DIRECTORIES = frozenset(
    f"/{name}"
    for name in (
        *("", "bin", "boot", "dev", "etc", "home", "lib", "media", "mnt", "opt", "proc", "root", "run", "sbin"),
        *("srv", "sys", "tmp", "usr", "usr/lib", "usr/local", "usr/share", "var", "var/cache", "var/lib", "var/log"),
        *("var/run", "var/spool", "var/tmp"),
    )
)


@dataclass(frozen=True)
class NodeFacts:
    """What containers may ask of the node: its name and address, and its allocatable resources."""

    name: str = "local"
    address: str = "127.0.0.1"
    allocatable: Mapping[str, str] = field(default_factory=dict)


def references(container: Object) -> set[tuple[Resource, str]]:
    """The Secrets and ConfigMaps, by name, that the container's environment reads."""
    found: set[tuple[Resource, str]] = set()
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            found.add((SECRETS, source["secretRef"]["name"]))
        if "configMapRef" in source:
            found.add((CONFIG_MAPS, source["configMapRef"]["name"]))
    for variable in container.get("env", []):
        value = variable.get("valueFrom", {})
        if "secretKeyRef" in value:
            found.add((SECRETS, value["secretKeyRef"]["name"]))
        if "configMapKeyRef" in value:
            found.add((CONFIG_MAPS, value["configMapKeyRef"]["name"]))
    return found


def environment(
    pod: Object, container: Object, objects: Objects, node: NodeFacts, base: Mapping[str, str], local: Localizer
) -> dict[str, str]:
    """`base` as it is, then envFrom and env, made local. Raises MissingObjectError where a reference leads nowhere."""
    result = {**base, "HOSTNAME": hostname(pod)}
    for source in container.get("envFrom", []):
        prefix = source.get("prefix", "")
        for resource, field_name in ((SECRETS, "secretRef"), (CONFIG_MAPS, "configMapRef")):
            if field_name in source:
                reference = source[field_name]
                data = objects.data(resource, reference["name"], optional=reference.get("optional"))
                for key, content in data.items():
                    result[prefix + key] = local.names(local.paths(text_of(content)))
    for variable in container.get("env", []):
        value = _value(pod, container, variable, objects, node)
        if value is not None:
            own = local.paths(value)
            result[variable["name"]] = local.names(own if "valueFrom" in variable else expand(own, result))
    return result


def arguments(words: Sequence[str], variables: Mapping[str, str], local: Localizer) -> list[str]:
    """The container's words, expanded and made local."""
    return [local.names(expand(local.paths(word), variables)) for word in words]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable; unknown ones stay as they are, `$$` becomes `$`."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return variables.get(name, match[0])

    return REFERENCE.sub(replace, text)


def hostname(pod: Object) -> str:
    """The pod's host name: its own field, else the pod's name."""
    return pod["spec"].get("hostname") or pod["metadata"]["name"]


class Localizer:
    """Rewrites one container's paths to below `root`, and its pod's DNS names to 127.0.0.1.

    Paths are rewritten before `$(VAR)` is expanded (a variable's value has been already), names after it (they are
    often put together from variables).
    """

    def __init__(self, pod: Object, container: Object, root: Path) -> None:
        self._root = root
        alternatives = "|".join(re.escape(item) for item in sorted(container_paths(container), key=len, reverse=True))
        # A whole path or a prefix of one: `/data` in `--in=/data/x` and `/a:/data`, not in `/data2` or `s3://b/data`.
        self._paths = re.compile(rf"(?<![\w./~-])(?:{alternatives})(?=/|[^\w.-]|\.?$)")
        self._names: re.Pattern[str] | None = None
        if domain := pod["spec"].get("subdomain"):
            namespace = re.escape(pod["metadata"]["namespace"])
            suffix = rf"(?:\.{namespace}(?:\.svc(?:\.cluster\.local)?)?)?"
            self._names = re.compile(rf"(?<![\w.-])[a-z0-9][-a-z0-9]*\.{re.escape(domain)}{suffix}(?![\w-]|\.\w)")

    def paths(self, text: str) -> str:
        """`text` with the container's paths where they really are."""
        return self._paths.sub(lambda match: f"{self._root}{match[0]}", text)

    def names(self, text: str) -> str:
        """`text` with the pods' host names as the one address that all of them have."""
        return text if self._names is None else self._names.sub("127.0.0.1", text)


def container_paths(container: Object) -> set[str]:
    """The absolute paths that mean something else inside the container than on this machine."""
    own = [PurePosixPath(item["mountPath"]) for item in container.get("volumeMounts", [])]
    message = PurePosixPath(message_path(container))
    parents = {str(parent) for path in [*own, message] for parent in path.parents}
    return {str(path) for path in [*own, message]} | (parents - SYSTEM_DIRECTORIES)


def message_path(container: Object) -> str:
    """Where the container leaves its termination message."""
    return container.get("terminationMessagePath") or "/dev/termination-log"


def _value(pod: Object, container: Object, variable: Object, objects: Objects, node: NodeFacts) -> str | None:
    source = variable.get("valueFrom")
    if source is None:
        return variable.get("value", "")
    for resource, name in ((SECRETS, "secretKeyRef"), (CONFIG_MAPS, "configMapKeyRef")):
        if name in source:
            reference = source[name]
            value = objects.key(resource, reference["name"], reference["key"], optional=reference.get("optional"))
            return None if value is None else text_of(value)
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], node.name, node.address)
    return resource_value(pod, container, source["resourceFieldRef"], node)


def resource_value(pod: Object, container: Object | None, reference: Object, node: NodeFacts) -> str:
    """A resourceFieldRef: the limit or request in units of its divisor, rounded up; without one, the node's."""
    name = reference.get("containerName")
    if name:
        container = next((item for item in pod["spec"]["containers"] if item["name"] == name), None)
    if container is None:
        raise ValueError(f"resourceFieldRef {reference['resource']}: names no container of the pod")
    side, _, resource = reference["resource"].partition(".")
    resources = container.get("resources", {})
    amount = resources.get(side, {}).get(resource)
    if amount is None:
        amount = resources.get("limits", {}).get(resource) or node.allocatable.get(resource, "0")
    divisor = parse(reference.get("divisor") or 1) or 1
    return str(int((parse(amount) / divisor).to_integral_value(ROUND_CEILING)))
