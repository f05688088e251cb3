"""The examples in every verb's help, run by a shell as they are printed, do what they say.

Only names differ: a registry of the tests' for the one of the help, and so on, in
`Scenery.words`.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import fs.cli
import runner.cli
from fs.daemon.state import records
from nydusify.cli import COMMANDS
from tests.parts.containerd import start_containerd
from tests.parts.printed import printed_examples
from tests.parts.registry import Registry
from tests.verbs.effects import (
    Effect,
    all_of,
    answers,
    blobs_of,
    bootstrap,
    containers,
    daemon,
    files,
    frees,
    image,
    lacks,
    mounted,
    run_line,
    says,
    tagged,
    tar,
    then,
    tree,
)
from tests.verbs.mounting import MOUNTING_SCENES, clear_away
from tests.verbs.scenes import OTHER, SCENES, Scenery, build_scenery

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.erofs,
    pytest.mark.overlay,
    pytest.mark.registry,
    pytest.mark.containerd,
    pytest.mark.system,
]


ALL_SCENES = SCENES | MOUNTING_SCENES
PACKED = (
    all_of(bootstrap("out/app.boot"), files("out/*", 2)),
    all_of(bootstrap("out/new.boot"), files("out/*", 4)),
    tree("mnt/etc/note"),
)
SHOWN = all_of(mounted("mnt"), tree("mnt/etc/app"))
UNMOUNT = then("nydus-fs umount /mnt")
RUN = (
    says("settings of app"),
    says("\n42\n"),
    says("DEBUG is 1 in /src"),
    says("settings of app"),
    containers(build=0),
)
#: For each verb what its examples lead to, in their order.
EFFECTS: dict[str, tuple[Effect, ...]] = {
    "nydusify convert": (
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
        all_of(image("oci:images:split"), blobs_of("images:split", "srv")),
        all_of(image("HOST/app:again"), tagged("cache", "app")),
        image("oci:images:plain", nydus=False),
    ),
    "nydusify check": (says("filesystem: ok"), answers("ok"), says("blobs: ok")),
    "nydusify chunkdict": (image("oci:images:dict"), bootstrap("dict.boot")),
    "nydusify commit": (
        image("HOST/app:built"),
        image("HOST/app:built"),
        image("HOST/app:changed"),
    ),
    "nydusify compact": (image("HOST/app:small"), bootstrap("new.boot")),
    "nydusify copy": (image("HOST/mirror/app:nydus"), tar("app.tar", "index.json")),
    "nydusify create": (
        files("images/*", 2),
        all_of(bootstrap("layer.boot"), files("blobs/*", 1)),
        all_of(bootstrap("layer.boot"), files("blobs/*", 2)),
    ),
    "nydusify export": (
        files("app.disk", 1),
        files("blobs/image.boot.disk", 1),
        tree("mnt/etc/app"),
    ),
    "nydusify inspect": (says("/var/waste"), answers(), answers()),
    "nydusify merge": (bootstrap("merged.boot"), says("images/")),
    "nydusify pack": PACKED,
    "nydusify build": PACKED,
    "nydusify slim": (
        files("app.trace", 1),
        all_of(image("HOST/app:slim"), files("left-out.json", 1)),
    ),
    "nydusify stat": (says("Chunks:"), answers(), says("Chunks:")),
    "nydusify unpack": (tar("app.tar", "etc/app"), tree("rootfs/etc/app")),
    "nydusify cache": (says("sha256"), says(""), says("")),
    "nydusify optimize": (
        image("HOST/listening/app:fast"),
        image("oci:images:fast"),
        image("oci:images:fast"),
    ),
    "nydus-fs": (SHOWN, says("/mnt", "app:nydus"), mounted("mnt", there=False)),
    "nydus-fs mount": (
        all_of(SHOWN, UNMOUNT),
        all_of(SHOWN, UNMOUNT),
        all_of(SHOWN, UNMOUNT),
        all_of(SHOWN, UNMOUNT, files("app.trace", 1)),
    ),
    "nydus-fs umount": (
        all_of(mounted("mnt", there=False), then("nydus-fs mount oci:images:nydus /mnt")),
        mounted("mnt", there=False),
    ),
    "nydus-fs status": (
        says("/mnt", "images:nydus"),
        says("/mnt", "images:nydus"),
        answers("mountpoint", "alive"),
    ),
    "nydus-fs daemon": (daemon(alive=True), daemon(alive=False)),
    "nydus-fs cache": (says(" chunks "), says("right"), frees(something=False)),
    "nydus-fs cache ls": (says(" chunks "), answers("blob", "ready")),
    "nydus-fs cache prune": (
        frees(something=False),
        frees(something=True),
    ),
    "nydus-fs cache verify": (says("right"), answers("blob", "wrong")),
    "nydus-fs trace": (says("/etc/app"),),
    "nydus-fs trace show": (says("/etc/app"), says("/etc/app"), answers("source", "touches")),
    "lazyrun": RUN,
    "lazyrun run": RUN,
    "lazyrun ps": (
        all_of(says("build"), lacks("old")),
        says("build", "old"),
        answers("id", "name", "status"),
    ),
    "lazyrun rm": (containers(build=None), containers()),
    "lazyrun prune": (files("root/store/snapshots/*", 0),),
}
#: What is typed where an example reads it.
TYPED = {
    "nydusify inspect": "stats\nls /etc\n",
    "lazyrun": "echo $((6*7)); exit\n",
    "lazyrun run": "echo $((6*7)); exit\n",
}


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


@pytest.fixture
def place(scenery: Scenery, tmp_path: Path) -> Iterator[Path]:
    """Nothing that an example mounted, started or ran is left, nor anything in default places."""
    yield tmp_path
    clear_away(scenery, tmp_path)
    assert [
        record for record in records(None) if record.mountpoint.startswith(f"{tmp_path}/")
    ] == []


def verbs_below(command: ArgumentParser) -> Iterator[str]:
    """A command, its verbs, and their own."""
    yield command.prog
    for action in command._actions:
        for verb in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            yield from verbs_below(verb)


VERBS = [
    *(f"nydusify {command.name}" for command in COMMANDS),
    *verbs_below(fs.cli.parser()),
    *verbs_below(runner.cli.parser()),
]


@pytest.mark.parametrize("verb", VERBS)
def test_examples_do_what_they_say(verb: str, scenery: Scenery, place: Path) -> None:
    told = run_line(f"{verb} --help", scenery, place)
    examples = printed_examples(told.output)
    assert len(examples) == len(EFFECTS[verb]), "an example without its effect"
    with ExitStack() as stack:
        if prepare := ALL_SCENES.get(verb):
            prepare(scenery, place, stack)
        for example, effect in zip(examples, EFFECTS[verb], strict=True):
            effect(run_line(example, scenery, place, TYPED.get(verb, "")))
