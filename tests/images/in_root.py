"""Runs an image's entry point in its root file system, as a container runtime does it for a pod of ours.

    python in_root.py [--user UID:GID] [--bind SOURCE:TARGET]... IMAGE [WORD]...

IMAGE is a folder that `build.sh` made: `rootfs` and `config.json`, the image's own configuration. The process is PID 1
of its own PID namespace, in a mount namespace of its own: the root is read-only, the user is the image's, there are no
capabilities, and no new privileges can be had. Started by a local node (finetune_local), it finds the pod's volumes as
links below the sandbox and mounts them where the pod's spec says, owned as the kubelet does it for an fsGroup.
Needs root and Linux. The network is this machine's.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from finetune_local.processes import MARK
from finetune_operator.manifests import GROUP_ID, RESULT_FILE

NEW_MOUNTS, NEW_PIDS = 0x20000, 0x20000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
NO_NEW_PRIVILEGES, DROP_CAPABILITY, DIE_WITH_PARENT, LAST_CAPABILITY = 38, 24, 1, 40
DEVICES = ("null", "zero", "full", "random", "urandom")
OF_THE_RUNTIME = ("/etc/resolv.conf", "/etc/hosts")
# What a local node gives its processes of this machine, and an image has for itself.
OF_THE_NODE = {"PATH", "LANG"}
# What is passed on of this machine's environment where there is no pod's.
PASSED_ON = ("FINETUNE_", "KUBE", "POD_NAME")
LIBC = ctypes.CDLL(None, use_errno=True)


def called(name: str, *arguments: object) -> None:
    """A C function that answers 0. Raises OSError."""
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = (source, str(target), kind)
    called("mount", *(word.encode() or None for word in words), ctypes.c_ulong(flags), options.encode() or None)


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Show `source`, a file or folder, at `target`, which is made."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(str(source), target, flags=BIND)
    if read_only:
        mount("", target, flags=BIND | REMOUNT | READ_ONLY)


def inside(root: Path, path: str | Path) -> Path:
    """Where an absolute path of the container lies below `root`, by the links in there (`/var/run` is one)."""
    here, left = root, list(Path(path).parts[1:])
    while left:
        place = here / left.pop(0)
        if place.is_symlink():
            target = Path(os.readlink(place))  # noqa: PTH115  (what the link says, not where it leads to here)
            here = root if target.is_absolute() else here
            left = [*(target.parts[1:] if target.is_absolute() else target.parts), *left]
        else:
            here = here.parent if place.name == ".." and here != root else place
    return here


def volumes(sandbox: Path) -> Iterator[tuple[Path, Path]]:
    """(volume, path in the container) of every mount that a local node laid out below a container's sandbox."""
    for folder, names, files in os.walk(sandbox):
        for name in [*names, *files]:
            path = Path(folder, name)
            if path.is_symlink():
                yield path.resolve(), Path("/") / path.relative_to(sandbox)


def own(volume: Path) -> None:
    """Give a volume to the pod's group, as the kubelet does for an fsGroup."""
    for path in [volume, *volume.rglob("*")]:
        os.chown(path, 0, GROUP_ID)
    if volume.stat().st_mode & 0o200:
        volume.chmod(0o2777)


def assemble(rootfs: Path, sandbox: Path | None, binds: list[str]) -> Path:
    """The container's root, read-only but for its volumes, in this mount namespace."""
    mount("", Path("/"), flags=RECURSIVE | PRIVATE)
    work = Path(tempfile.mkdtemp(prefix="in-root-"))
    mount("tmpfs", work, "tmpfs")
    for name in ("upper", "work", "root"):
        (work / name).mkdir()
    root = work / "root"
    layers = f"lowerdir={rootfs},upperdir={work}/upper,workdir={work}/work"
    mount("overlay", root, "overlay", options=layers)
    mount("proc", root / "proc", "proc")
    mount("tmpfs", root / "dev", "tmpfs", options="mode=755")
    for name in DEVICES:
        bind(Path("/dev", name), root / "dev" / name)
    (root / "dev/shm").mkdir()
    mount("tmpfs", root / "dev/shm", "tmpfs", options="mode=1777,size=64m")
    for place in OF_THE_RUNTIME:
        bind(Path(place), inside(root, place), read_only=True)
    # As the chart has it for the operator.
    if sandbox is None:
        mount("tmpfs", root / "tmp", "tmpfs", options="mode=1777,size=64m")
    for pair in binds:
        source, _, target = pair.partition(":")
        bind(Path(source), inside(root, target))
    if sandbox is not None:
        for volume, target in volumes(sandbox):
            own(volume)
            bind(volume, inside(root, target))
        message = Path(f"{sandbox}{RESULT_FILE}")
        message.chmod(0o666)
        bind(message, Path(f"{root}{RESULT_FILE}"))
    mount(str(root), root, flags=BIND | RECURSIVE)
    mount("", root, flags=BIND | REMOUNT | READ_ONLY)
    return root


def variables(image: Mapping[str, list[str]], given: Mapping[str, str], sandbox: Path | None) -> dict[str, str]:
    """The image's environment, then the pod's, with its paths as the pod's spec has them."""
    # A runtime takes HOME from the image's /etc/passwd; this is the one of a user who is not in it.
    base = {"HOME": "/", **dict(item.split("=", 1) for item in image.get("Env") or ())}
    if sandbox is None:
        return {**base, **{name: value for name, value in given.items() if name.startswith(PASSED_ON)}}
    pods = {name: value for name, value in given.items() if name not in OF_THE_NODE}
    return {**base, **{name: value.replace(str(sandbox), "") for name, value in pods.items()}}


def become(user: str) -> None:
    """The image's user, without any capability."""
    for number in range(LAST_CAPABILITY + 1):
        LIBC.prctl(DROP_CAPABILITY, number, 0, 0, 0)
    called("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    uid, _, gid = user.partition(":")
    os.setgroups([GROUP_ID])
    os.setgid(int(gid or uid))
    os.setuid(int(uid))


def start(image: Path, binds: list[str], user: str | None, words: list[str]) -> None:
    """Replace this process, which is PID 1 already, by the image's entry point."""
    config = json.loads((image / "config.json").read_text())
    # A local node starts a container in its pod's folder, and says which container it is.
    member = os.environ.get(MARK)
    sandbox = Path.cwd() / "root" / member.rpartition("/")[2] if member else None
    environment = variables(config, os.environ, sandbox)
    root = assemble(image / "rootfs", sandbox, binds)
    os.chroot(root)
    os.chdir(config.get("WorkingDir") or "/")
    become(user or config["User"])
    command = [*config["Entrypoint"], *words]
    os.execvpe(command[0], command, environment)


def main() -> int:
    """Start it, pass signals on, and end as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bind", action="append", default=[], metavar="SOURCE:TARGET")
    parser.add_argument("--user", metavar="UID:GID", help="as a cluster that chooses users has it")
    parser.add_argument("image", type=Path)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    called("unshare", NEW_MOUNTS | NEW_PIDS)
    child = os.fork()
    if child == 0:
        called("prctl", DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        start(given.image.absolute(), given.bind, given.user, given.words)

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())
