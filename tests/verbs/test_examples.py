"""The examples in every verb's help, run by a shell as they are printed, do what they say.

Only names differ: a registry of the tests' for the one of the help, and so on, in
`Scenery.words`.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fs.format.versions import open_bootstrap
from fs.registry.platform import parse_platform
from fs.registry.store import open_reader
from nydusify.cli import COMMANDS
from tests.parts.containerd import start_containerd
from tests.parts.printed import printed_examples
from tests.parts.registry import Registry
from tests.parts.waiting import PATIENCE
from tests.verbs.scenes import OTHER, Scenery, build_scenery, scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.erofs,
    pytest.mark.overlay,
    pytest.mark.registry,
    pytest.mark.containerd,
    pytest.mark.system,
]


class Run(NamedTuple):
    """What an example printed, where it ran, and the registry that it spoke of."""

    output: str
    place: Path
    registry: Registry


Effect = Callable[[Run], object]


def image(place: str, *, nydus: bool = True, platform: str | None = None) -> Effect:
    """It can be had under this name; HOST is the registry."""

    def holds(run: Run) -> None:
        name = place.replace("HOST", run.registry.host).replace("oci:", f"oci:{run.place}/")
        reader = open_reader(name.replace("archive:", f"archive:{run.place}/"))
        try:
            wanted = parse_platform(platform) if platform else None
            assert reader.resolve(wanted, nydus=nydus).manifest.layers
        finally:
            reader.close()

    return holds


def bootstrap(pattern: str) -> Effect:
    def holds(run: Run) -> None:
        (path,) = run.place.glob(pattern)
        assert open_bootstrap(path.read_bytes(), str(path)).inode_count > 1

    return holds


def files(pattern: str, count: int) -> Effect:
    """So many match, and none is empty."""

    def holds(run: Run) -> None:
        found = list(run.place.glob(pattern))
        assert len(found) == count
        assert all(path.stat().st_size for path in found)

    return holds


def says(*words: str) -> Effect:
    def holds(run: Run) -> None:
        assert [word for word in words if word not in run.output] == []

    return holds


def answers(*keys: str) -> Effect:
    """Every line is JSON, the first one with these keys if it is a map."""

    def holds(run: Run) -> None:
        lines: list[Any] = [json.loads(line) for line in run.output.splitlines()]
        assert lines
        assert [key for key in keys if key not in lines[0]] == []

    return holds


def tagged(repository: str, tag: str) -> Effect:
    """The registry has it, and it is no image."""
    path = f"docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"
    return lambda run: (run.registry.storage / path).read_bytes()


def tree(path: str) -> Effect:
    return lambda run: (run.place / path).read_bytes()


def tar(path: str, name: str) -> Effect:
    def holds(run: Run) -> None:
        with tarfile.open(run.place / path) as archive:
            assert archive.getmember(name).isfile()

    return holds


def all_of(*effects: Effect) -> Effect:
    return lambda run: [effect(run) for effect in effects]


PACKED = (
    all_of(bootstrap("out/app.boot"), files("out/*", 2)),
    all_of(bootstrap("out/new.boot"), files("out/*", 4)),
    tree("mnt/etc/note"),
)
#: For each verb what its examples lead to, in their order.
EFFECTS: dict[str, tuple[Effect, ...]] = {
    "convert": (
        image("HOST/app:1-nydus"),
        image("oci:images:app"),
        image("oci:images:app"),
        image("oci:images:app"),
        all_of(
            image("HOST/app:both"),
            image("HOST/app:both", nydus=False),
            image("HOST/app:both", platform=OTHER),
        ),
        image("HOST/app:lazy"),
        image("oci:images:raw"),
        image("oci:images:small"),
        image("oci:images:quick"),
        all_of(image("oci:images:split"), files("srv/*", 3)),
        all_of(image("HOST/app:again"), tagged("cache", "app")),
        image("oci:images:plain", nydus=False),
    ),
    "check": (says("filesystem: ok"), answers("ok"), says("blobs: ok")),
    "chunkdict": (image("oci:images:dict"), bootstrap("dict.boot")),
    "commit": (image("HOST/app:built"), image("HOST/app:built"), image("HOST/app:changed")),
    "compact": (image("HOST/app:small"), bootstrap("new.boot")),
    "copy": (image("HOST/mirror/app:nydus"), tar("app.tar", "index.json")),
    "create": (
        files("images/*", 2),
        all_of(bootstrap("layer.boot"), files("blobs/*", 1)),
        all_of(bootstrap("layer.boot"), files("blobs/*", 2)),
    ),
    "export": (files("app.disk", 1), files("blobs/image.boot.disk", 1), tree("mnt/etc/app")),
    "inspect": (says("/var/waste"), answers(), answers()),
    "merge": (bootstrap("merged.boot"), says("images/")),
    "pack": PACKED,
    "build": PACKED,
    "slim": (files("app.trace", 1), all_of(image("HOST/app:slim"), files("left-out.json", 1))),
    "stat": (says("Chunks:"), answers(), says("Chunks:")),
    "unpack": (tar("app.tar", "etc/app"), tree("rootfs/etc/app")),
    "cache": (says("sha256"), says(""), says("")),
    "optimize": (
        image("HOST/listening/app:fast"),
        image("oci:images:fast"),
        image("oci:images:fast"),
    ),
}
#: What is typed where an example reads it.
TYPED = {"inspect": "stats\nls /etc\n"}


@pytest.fixture(scope="module")
def scenery(
    tmp_path_factory: pytest.TempPathFactory, base_layer: bytes, registry: Registry
) -> Iterator[Scenery]:
    root = tmp_path_factory.mktemp("help")
    with (
        start_containerd(tmp_path_factory.mktemp("c")) as containerd,
        build_scenery(root, base_layer, registry, containerd) as made,
    ):
        yield made


@pytest.mark.parametrize("verb", [command.name for command in COMMANDS])
def test_examples_do_what_they_say(verb: str, scenery: Scenery, tmp_path: Path) -> None:
    told = run(f"nydusify {verb} --help", scenery, tmp_path)
    examples = printed_examples(told.output)
    assert len(examples) == len(EFFECTS[verb]), "an example without its effect"
    with scene(verb, scenery, tmp_path):
        for example, effect in zip(examples, EFFECTS[verb], strict=True):
            effect(run(example, scenery, tmp_path, TYPED.get(verb, "")))


def run(example: str, scenery: Scenery, place: Path, typed: str = "") -> Run:
    """The example by a shell in `place`; it must succeed."""
    for word, real in scenery.words(place).items():
        example = example.replace(word, real)
    done = subprocess.run(
        ["bash", "-c", example],
        cwd=place,
        env=scenery.environment(place),
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{example}\n{done.stderr}"
    return Run(done.stdout, place, scenery.registry)
