"""The Dockerfiles, read as data: hadolint's rules that matter here, and what the operator relies on."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from finetune_operator.manifests import GROUP_ID

ROOT = Path(__file__).parents[3]
FILES = {
    "operator": ROOT / "operator/Dockerfile",
    "cuda": ROOT / "trainer-image/Dockerfile",
    "cpu": ROOT / "trainer-image/Dockerfile.cpu",
}


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word and the rest, continued lines joined."""

    word: str
    rest: str


def parse(path: Path) -> list[Instruction]:
    """A Dockerfile's instructions."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [Instruction(word.upper(), rest) for word, rest in split]


def of(image: str, word: str) -> list[str]:
    """What follows each instruction of one kind."""
    return [item.rest for item in parse(FILES[image]) if item.word == word]


def commands(image: str) -> list[str]:
    """Each command that a RUN runs."""
    return [part.strip() for rest in of(image, "RUN") for part in re.split(r"&&|\|\|", rest)]


def pins(name: str) -> dict[str, str]:
    """Package → version, of a file that pins."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonical(package): version for package, version in (line.split("==") for line in lines)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def extra(name: str) -> list[Requirement]:
    """What an extra of pyproject.toml asks for, those that it includes resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[Requirement] = [Requirement(line) for line in project["dependencies"]]
    for line in project["optional-dependencies"][name]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            found += [item for included in requirement.extras for item in extra(included)]
        else:
            found.append(requirement)
    return found


every = pytest.mark.parametrize("image", FILES)


@every
def test_the_base_is_pinned_and_no_host_is_written(image: str) -> None:
    (base,) = [rest.removeprefix("BASE=") for rest in of(image, "ARG") if rest.startswith("BASE=")]
    repository, _, tag = base.partition(":")
    assert re.search(r"\d+\.\d+\.\d+", tag), "a full version"
    assert "." not in repository.split("/")[0]
    assert {rest.split()[0] for rest in of(image, "FROM")} == {"${BASE}"}
    assert "://" not in FILES[image].read_text()


@every
def test_the_last_stage_is_small_and_without_root(image: str) -> None:
    instructions = parse(FILES[image])
    last = max(index for index, item in enumerate(instructions) if item.word == "FROM")
    stage = instructions[last:]
    assert [item.rest for item in stage if item.word == "USER"] == ["65532:65532"]
    assert [item.rest for item in stage if item.word == "COPY"] == ["--from=build /opt/finetune /opt/finetune"]
    assert not any("pip" in item.rest for item in stage if item.word == "RUN")
    order = [item.word for item in stage]
    assert order.index("USER") > max((index for index, word in enumerate(order) if word == "RUN"), default=0)
    assert GROUP_ID == 65532, "the group that mounted Secrets belong to is the images'"


@every
def test_the_entry_point_is_the_module_in_exec_form(image: str) -> None:
    module = "finetune_operator" if image == "operator" else "finetune_trainer"
    (entry,) = of(image, "ENTRYPOINT")
    assert json.loads(entry) == ["python", "-m", module]
    assert of(image, "CMD") == []
    folder = FILES[image].parent / module
    assert (folder / "__main__.py").exists()


@every
def test_pip_keeps_no_cache_and_installs_what_is_pinned(image: str) -> None:
    installs = [command for command in commands(image) if re.search(r"\bpip install\b", command)]
    assert installs
    for command in installs:
        assert "--no-cache-dir" in command
        (constraints,) = re.findall(r"-c (\S+)", command)
        assert (ROOT / constraints).exists()
    assert any(re.search(r"pip uninstall --yes pip", command) for command in commands(image))


@every
def test_apt_leaves_nothing_behind(image: str) -> None:
    for rest in of(image, "RUN"):
        if "apt-get install" in rest:
            assert "apt-get update" in rest
            assert "--yes --no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


@every
def test_only_what_is_needed_is_copied(image: str) -> None:
    allowed = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    package = "operator/finetune_operator" if image == "operator" else "trainer-image/finetune_trainer"
    sources = [source for rest in of(image, "COPY") if "--from" not in rest for source in rest.split()[:-1]]
    assert {"pyproject.toml", "crds/finetune_api", package} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in allowed), f".dockerignore leaves {source} out"
        assert source not in (".", "operator", "crds", "trainer-image", "tests")
    assert of(image, "ADD") == []


def test_everything_but_what_is_listed_stays_out_of_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "**"
    assert lines[-1] == "**/__pycache__"


@every
def test_labels_are_the_open_container_initiatives(image: str) -> None:
    names = set(re.findall(r"([\w.]+)=", " ".join(of(image, "LABEL"))))
    prefix = "org.opencontainers.image."
    assert {prefix + name for name in ("title", "description", "version", "revision", "licenses")} <= names
    listed = re.findall(r'dev\.finetune\.packages="([^"]+)"', " ".join(of(image, "LABEL")))
    assert any(command.endswith(f"> {listed[0]}") for command in commands(image))


@every
def test_the_version_is_the_projects(image: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in of(image, "ARG")


# --- the trainers


def test_the_cpu_image_takes_torch_from_where_it_is_told_and_refuses_cuda() -> None:
    assert "TORCH_INDEX" in of("cpu", "ARG"), "without a default"
    installs = [command for command in commands("cpu") if "pip install" in command]
    assert '--index-url "${TORCH_INDEX}" torch' in installs[0]
    assert any("torch.version.cuda is None" in command for command in commands("cpu"))
    first, second = [index for index, item in enumerate(parse(FILES["cpu"])) if "pip install" in item.rest]
    assert first < second


def test_the_cuda_image_can_compile_at_run_time() -> None:
    last = [rest for rest in of("cuda", "RUN") if "apt-get install" in rest][-1]
    assert {"gcc", "libc6-dev", "python3", "python3-dev"} <= set(last.split())
    (base,) = [rest for rest in of("cuda", "ARG") if rest.startswith("BASE=")]
    assert re.match(r"BASE=nvidia/cuda:13\.\d+\.\d+-cudnn-runtime-", base)


def test_the_images_install_the_extra_that_is_theirs() -> None:
    wanted = {"operator": '".[operator]"', "cpu": '".[trainer]"', "cuda": '".[trainer-cuda]"'}
    for image, words in wanted.items():
        assert any(words in command for command in commands(image) if "pip install" in command)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("operator", "constraints.txt"),
        ("trainer", "constraints.txt"),
        ("trainer-cuda", "trainer-image/constraints-cuda.txt"),
    ],
)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(name: str, file: str) -> None:
    known = pins(file)
    for requirement in extra(name):
        assert requirement.specifier.contains(known[canonical(requirement.name)]), requirement


def test_the_pins_agree() -> None:
    cpu, cuda, models = (
        pins(name)
        for name in ("constraints.txt", "trainer-image/constraints-cuda.txt", "trainer-image/requirements-models.txt")
    )
    for one, other in pairwise([cpu, cuda, models, cpu]):
        assert {name: one[name] for name in one.keys() & other.keys()} == {
            name: other[name] for name in one.keys() & other.keys()
        }
    assert models.keys() <= cuda.keys()
    assert not {"onnxruntime", "onnxruntime-genai"} & cuda.keys(), "the same modules as the CUDA ones"
    assert any(name.endswith("-cu13") for name in cuda)
