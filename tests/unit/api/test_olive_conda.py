"""A conda file's packages are in the trainer image, missing, or not needed."""

from __future__ import annotations

import pytest

from finetune_api.olive.conda import Fate, packages

PRESENT = {"torch": "torch==2.13.0", "huggingface-hub": "huggingface_hub>=2.4", "my-pkg": "a dependency of torch"}


@pytest.mark.parametrize(
    ("line", "fate"),
    [
        ("python=3.10", Fate.NOT_NEEDED),
        ("pytorch::pytorch=2.1", Fate.PRESENT),
        ("torch>=2.0 ; python_version > '3'", Fate.PRESENT),
        ("huggingface_hub", Fate.PRESENT),
        ("Huggingface.Hub[cli]~=0.2", Fate.PRESENT),
        ("azureml-core==1.5", Fate.NOT_NEEDED),
        ("olive-ai[auto]", Fate.NOT_NEEDED),
        ("--extra-index-url https://x", Fate.NOT_NEEDED),
        ("-r more.txt", Fate.NOT_NEEDED),
        ("git+https://example.com/a/My_Pkg.git@main", Fate.PRESENT),
        ("git+https://example.com/a/b#egg=torch", Fate.PRESENT),
        ("flash_attn", Fate.MISSING),
        ("pythonic", Fate.MISSING),
        ("", Fate.MISSING),
    ],
)
def test_each_package_has_its_fate(line: str, fate: Fate) -> None:
    (only,) = packages({"dependencies": [{"pip": [line]}]}, PRESENT)
    assert (only.line, only.fate) == (line, fate)
    assert only.why.endswith(".")


def test_conda_and_pip_lines_are_listed_once_and_in_order() -> None:
    environment = {"name": "x", "dependencies": ["python=3.10", {"pip": ["torch", "torch", "a"]}, "b"]}
    assert [item.line for item in packages(environment, PRESENT)] == ["python=3.10", "torch", "a", "b"]


@pytest.mark.parametrize("environment", [None, [], {"dependencies": "torch"}, {"packages": []}])
def test_what_is_no_conda_file_is_refused(environment: object) -> None:
    with pytest.raises(ValueError, match="list of dependencies"):
        packages(environment, PRESENT)
