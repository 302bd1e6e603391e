"""`helm` for the documentation's commands: Helm's own code (a wheel), with the command line's words for it.

Of the command line it knows what the pages use: install, upgrade [--install], --namespace, --create-namespace, --set.
The tests' cluster has the CRDs already, from before any chart, so they are left out here; tests/unit/helm installs
them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import helm_python
import yaml

SECONDS = 60


def main() -> None:
    """Install or upgrade one release. Any failure ends with Helm's own words."""
    parser = argparse.ArgumentParser(prog="helm")
    parser.add_argument("action", choices=("install", "upgrade"))
    parser.add_argument("release")
    parser.add_argument("chart", type=Path)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--create-namespace", action="store_true")
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="given")
    words = parser.parse_args()
    helm = helm_python.Config(kubeconfig_path=Path(os.environ["KUBECONFIG"]), namespace=words.namespace)
    values = {**nested(words.given), "crds": {"install": False}}
    there = words.action == "upgrade" and (not words.install or is_installed(helm, words.release))
    if there:
        helm.upgrade(words.chart, words.release, values, namespace=words.namespace, timeout=SECONDS)
    else:
        more = {"namespace": words.namespace, "create_namespace": words.create_namespace, "timeout": SECONDS}
        helm.install(words.chart, words.release, values, **more)
    print(f"{words.release}: {'upgraded' if there else 'installed'}")


def is_installed(helm: helm_python.Config, release: str) -> bool:
    """Whether the namespace has the release."""
    return any(found["name"] == release for found in helm.list())


def nested(given: list[str]) -> dict[str, Any]:
    """`a.b=c` as {"a": {"b": "c"}}."""
    values: dict[str, Any] = {}
    for item in given:
        path, _, text = item.partition("=")
        *outer, last = path.split(".")
        place = values
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = yaml.safe_load(text)
    return values


if __name__ == "__main__":
    main()
