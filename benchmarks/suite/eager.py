"""Modes that have the whole image before they start it: containerd, podman, and local disk."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import services
from benchmarks.images.start import run_options
from benchmarks.measure import run_to_end
from benchmarks.suite.modes import Plan, Step, programs_missing
from benchmarks.suite.subject import Place, detach_below
from fs import mounts

#: containerd's resolver says so with --debug.
_RESOLVED = r"msg=resolved"


@dataclass(frozen=True)
class Containerd:
    """`ctr`, as a node without Kubernetes would use it."""

    name: str = "oci-containerd"
    format: str = "plain"
    lazy: bool = False
    again: bool = False

    def missing(self) -> str:
        return programs_missing("containerd", "ctr", "runc")

    @contextmanager
    def at(self, place: Place) -> Iterator[Plan]:
        with services.containerd(place.work, wrap=place.account.wrap) as address:
            pull = ["ctr", "--debug", "--address", str(address), "image", "pull", "--plain-http"]
            yield ctr_plan(place, address, [*pull, place.reference(self.format)])


def ctr_plan(place: Place, address: Path, pull: list[str], *extra: str) -> Plan:
    """How an image is run by ctr, once `pull` has it; `extra` are options of a snapshotter."""
    ctr = ["ctr", "--address", str(address)]
    reference, tree, name = pull[-1], place.work / "tree", place.work.name
    tree.mkdir()
    # ctr takes a `--` that follows a flag without a value for the name of an image.
    options = ["--net-host", "--label", "of=benchmarks", *extra]
    for setting in place.subject.recipe.run.environment:
        options += ["--env", setting]
    for source, target in place.subject.shown():
        options += ["--mount", f"type=bind,src={source},dst={target},options=rbind:ro"]
    words = place.subject.command()
    # Without `--` ctr takes flags of the program for its own.
    create = [*ctr, "container", "create", *options, "--", reference, name, *words]
    return Plan(
        [Step("pull", pull, {"resolve": _RESOLVED})],
        [*ctr, "task", "start", name],
        [
            Step("create", create),
            Step("show", _shown_snapshot([*ctr, "snapshot", *extra], tree, name)),
        ],
        tree,
        [Step("create", create)],
    )


def _shown_snapshot(ctr: list[str], tree: Path, name: str) -> list[str]:
    """The container's snapshot at `tree`, by the mount command that ctr prints."""
    return ["sh", "-c", f'eval "$("$@" mounts "$0" {name})"', str(tree), *ctr]


@dataclass(frozen=True)
class Podman:
    """podman with a store of its own, on runc."""

    name: str = "oci-podman"
    format: str = "plain"
    lazy: bool = False
    again: bool = False

    def missing(self) -> str:
        return programs_missing("podman", "conmon", "runc")

    @contextmanager
    def at(self, place: Place) -> Iterator[Plan]:
        work = place.work
        tree = work / "tree"
        tree.mkdir()
        reference = place.reference(self.format)
        short = Path(tempfile.mkdtemp(dir="/run", prefix="bench-"))  # podman wants 50 characters
        podman = ["env", *_podman_environment(work, short), "podman", *_podman_options(work, short)]
        pull = ["--quiet", "--tls-verify=false", "--signature-policy", str(work / "policy.json")]
        subject = place.subject
        options = [*run_options(subject.recipe), "--network", "host", "--name", work.name]
        options.remove("--rm")
        try:
            yield Plan(
                [Step("pull", [*podman, "pull", *pull, reference])],
                [*podman, "start", "--attach", "--interactive", work.name],
                [Step("show", _bound([*podman, "image", "mount", reference], tree))],
                tree,
                [Step("create",
                      [*podman, "create", *options, reference, *subject.recipe.run.arguments])],
            )  # fmt: skip
        finally:
            detach_below(work)
            detach_below(short)
            shutil.rmtree(short, ignore_errors=True)


def _podman_environment(work: Path, short: Path) -> list[str]:
    """Settings that do not depend on how the machine's own podman is set up."""
    (work / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\npids_limit = 0\n'
    )
    (work / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    (work / "registries.conf").write_text("")
    graph, runtime = f'graphroot = "{work / "root"}"', f'runroot = "{short}"'
    (work / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\n{graph}\n{runtime}\n')
    files = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_REGISTRIES_CONF": "registries.conf",
             "CONTAINERS_STORAGE_CONF": "storage.conf"}  # fmt: skip
    return [f"{name}={work / file}" for name, file in files.items()]


def _podman_options(work: Path, short: Path) -> list[str]:
    return ["--root", str(work / "root"), "--runroot", str(short),
            "--tmpdir", str(short / "tmp"), "--storage-driver", "overlay",
            "--cgroup-manager", "cgroupfs", "--runtime", "runc",
            "--events-backend", "none"]  # fmt: skip


def _bound(command: list[str], tree: Path) -> list[str]:
    """The command, which prints where it mounted, with that shown at `tree`."""
    return ["sh", "-c", 'mount --bind "$("$@")" "$0"', str(tree), *command]


@dataclass(frozen=True)
class Native:
    """The image unpacked on the local disk long ago, with a writable layer, by runc."""

    name: str = "native"
    format: str = "plain"
    lazy: bool = False
    again: bool = False

    def missing(self) -> str:
        return programs_missing("umoci", "runc")

    @contextmanager
    def at(self, place: Place) -> Iterator[Plan]:
        work, unpacked = place.work, _unpacked(place)
        bundle = work / "bundle"
        for directory in (bundle, bundle / "rootfs", work / "upper", work / "over"):
            directory.mkdir()
        (bundle / "config.json").write_text(json.dumps(_runc_configuration(place, unpacked)))
        lower, root = unpacked / "rootfs", bundle / "rootfs"
        layers = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'over'}"
        mounts.mount("overlay", root, "overlay", data=layers)
        run = ["runc", "--root", str(work / "runc"), "run", "--bundle", str(bundle), work.name]
        try:
            yield Plan([], run, [], root)
        finally:
            mounts.umount(root, mounts.MNT_DETACH)


def _unpacked(place: Place) -> Path:
    """umoci's bundle, made once for an image and a measurement."""
    bundle = place.work.parent / f"{place.subject.name}-bundle"
    if not bundle.exists():
        source = place.subject.source.removeprefix("oci:")
        run_to_end(["umoci", "unpack", "--image", source, str(bundle)])
    return bundle


def _runc_configuration(place: Place, bundle: Path) -> dict[str, object]:
    configuration: dict[str, object] = json.loads((bundle / "config.json").read_text())
    process, linux = configuration["process"], configuration["linux"]
    assert isinstance(process, dict)
    assert isinstance(linux, dict)
    process |= {"terminal": False, "args": place.subject.command()}
    process["env"] += place.subject.recipe.run.environment
    linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "network"]
    shown = configuration["mounts"]
    assert isinstance(shown, list)
    for source, target in place.subject.shown():
        shown.append(
            {
                "source": str(source),
                "destination": target,
                "type": "bind",
                "options": ["bind", "ro"],
            }
        )
    return configuration
