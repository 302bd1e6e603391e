"""A pod's volumes as directories of its sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from finetune_local.client import CLAIMS, CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, Object, Resource
from finetune_local.node.environment import NodeFacts, resource_value
from finetune_local.node.values import MissingObjectError, Objects, TokenOf, field_value

FILE_MODE = 0o644


class VolumeError(Exception):
    """A volume that this node cannot provide, whatever happens; the message says why."""


class Volumes:
    """Makes the volumes of one pod below `folder`; claims live below `claims`, beyond the pod's life."""

    def __init__(self, pod: Object, folder: Path, claims: Path, node: NodeFacts) -> None:
        self._pod, self._folder, self._claims, self._node = pod, folder, claims, node

    def make(self, volume: Object, objects: Objects) -> Path:
        """The directory of `volume`, filled. Raises MissingObjectError for what may still come, else VolumeError."""
        makers: dict[str, Callable[[Object, Objects, Path], None]] = {
            "secret": self._secret,
            "configMap": self._config_map,
            "downwardAPI": self._downward,
            "projected": self._projected,
        }
        if "persistentVolumeClaim" in volume:
            return self._claim(volume["persistentVolumeClaim"]["claimName"], objects)
        folder = self._folder / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        for kind, make in makers.items():
            if kind in volume:
                make(volume[kind], objects, folder)
                return folder
        if "emptyDir" not in volume and set(volume) != {"name"}:
            kind = ", ".join(sorted(set(volume) - {"name"}))
            raise VolumeError(f"volume type {kind} is not offered by the local node")
        return folder

    def _claim(self, name: str, objects: Objects) -> Path:
        if objects.found.get((CLAIMS, name)) is None:
            raise MissingObjectError(CLAIMS, name, None, f'persistentvolumeclaim "{name}" not found')
        folder = self._claims / objects.namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _secret(self, source: Object, objects: Objects, folder: Path) -> None:
        self._keys(SECRETS, source.get("secretName") or source.get("name"), source, objects, folder)

    def _config_map(self, source: Object, objects: Objects, folder: Path) -> None:
        self._keys(CONFIG_MAPS, source["name"], source, objects, folder)

    def _keys(self, resource: Resource, name: str, source: Object, objects: Objects, folder: Path) -> None:
        optional = source.get("optional")
        data = objects.data(resource, name, optional=optional)
        mode = source.get("defaultMode", FILE_MODE)
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] in data:
                _write(folder, item["path"], data[item["key"]], item.get("mode", mode))
            elif not optional:
                message = f"references non-existent {resource.kind.lower()} key: {item['key']}"
                raise MissingObjectError(resource, name, objects.version(resource, name), message)

    def _downward(self, source: Object, objects: Objects, folder: Path) -> None:
        del objects
        for item in source.get("items", []):
            if "fieldRef" in item:
                path = item["fieldRef"]["fieldPath"]
                text = field_value(self._pod, path, self._node.name, self._node.address)
            else:
                text = resource_value(self._pod, None, item["resourceFieldRef"], self._node)
            _write(folder, item["path"], text.encode(), item.get("mode", source.get("defaultMode", FILE_MODE)))

    def _projected(self, source: Object, objects: Objects, folder: Path) -> None:
        makers = {
            "secret": self._secret,
            "configMap": self._config_map,
            "downwardAPI": self._downward,
            "serviceAccountToken": self._token,
        }
        for projection in source.get("sources", []):
            for kind, value in projection.items():
                if kind not in makers:
                    raise VolumeError(f"projected volume source {kind} is not offered by the local node")
                makers[kind]({"defaultMode": source.get("defaultMode", FILE_MODE), **value}, objects, folder)

    def _token(self, source: Object, objects: Objects, folder: Path) -> None:
        """The token is as new as the pod, and not renewed."""
        wanted = _token_of(self._pod, source)
        if wanted not in objects.tokens:
            message = f'serviceaccount "{wanted.account}" not found'
            raise MissingObjectError(SERVICE_ACCOUNTS, wanted.account, None, message)
        _write(folder, source["path"], objects.tokens[wanted].encode(), source["defaultMode"])


def tokens(pod: Object) -> set[TokenOf]:
    """The tokens of its service account that the pod's volumes need."""
    sources = [
        source for volume in pod["spec"].get("volumes", []) for source in volume.get("projected", {}).get("sources", [])
    ]
    return {_token_of(pod, source["serviceAccountToken"]) for source in sources if "serviceAccountToken" in source}


def _token_of(pod: Object, source: Object) -> TokenOf:
    account = pod["spec"].get("serviceAccountName") or "default"
    return TokenOf(account, source.get("audience", ""), source.get("expirationSeconds", 3600))


def references(pod: Object) -> set[tuple[Resource, str]]:
    """The Secrets, ConfigMaps and claims, by name, that the pod's volumes need."""
    return {reference for volume in pod["spec"].get("volumes", []) for reference in _references(volume)}


def _references(source: Object) -> Iterator[tuple[Resource, str]]:
    if "secret" in source:
        yield SECRETS, source["secret"].get("secretName") or source["secret"].get("name")
    if "configMap" in source:
        yield CONFIG_MAPS, source["configMap"]["name"]
    if "persistentVolumeClaim" in source:
        yield CLAIMS, source["persistentVolumeClaim"]["claimName"]
    for projection in source.get("projected", {}).get("sources", []):
        yield from _references(projection)


def mount(root: Path, container: Object, volumes: dict[str, Path]) -> None:
    """Lay out the container's mounts below `root` as links, outer ones first, so that inner ones lie in them.

    Raises VolumeError for a path that leaves its volume or that another mount occupies.
    """
    root.mkdir(parents=True, exist_ok=True)
    for item in sorted(container.get("volumeMounts", []), key=lambda entry: len(entry["mountPath"])):
        volume = volumes[item["name"]]
        target = volume / item.get("subPath", "")
        place = Path(f"{root}{item['mountPath'].rstrip('/')}")
        if not target.resolve().is_relative_to(volume.resolve()):
            raise VolumeError(f"subPath {item['subPath']!r} of volume {item['name']} leaves the volume")
        if not target.exists():
            target.mkdir(parents=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        elif place.is_dir() and not any(place.iterdir()):
            place.rmdir()
        elif place.exists():
            raise VolumeError(f"mountPath {item['mountPath']}: something lies there already in an outer volume")
        place.symlink_to(target)


def _write(folder: Path, path: str, data: bytes, mode: int) -> None:
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise VolumeError(f"path {path!r} leaves its volume")
    place.parent.mkdir(parents=True, exist_ok=True)
    # A restarted node makes the volume again, over files that may be read-only.
    place.unlink(missing_ok=True)
    place.write_bytes(data)
    place.chmod(mode)
