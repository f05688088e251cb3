"""Imports point from the tools to the format, never back or sideways."""

from __future__ import annotations

import pytest

from tests.house.sources import OURS, imports_of, modules

# Inside fs and nydusify each part may import those before it.
FS = (
    "fs.format",
    "fs.owndir",
    "fs.tar",
    "fs.registry",
    "fs.backend",
    "fs.cache",
    "fs.image.tree",
    "fs.image.record",
    "fs.image.trace",
    "fs.image.bootstrap_layer",
    "fs.image.source",
    "fs.image.contents",
    "fs.drivers",
    "fs.daemon",
)
NYDUSIFY = (
    "nydusify.progressbar",
    "nydusify.report",
    "nydusify.options",
    "nydusify.whole_file",
    "nydusify.workplace",
    "nydusify.interruption",
    "nydusify.blobs",
    "nydusify.layers",
    "nydusify.references",
    "nydusify.images",
    "nydusify.startup",
    "nydusify.outputs",
    "nydusify.checks",
    "nydusify.operations",
    "nydusify.verbs",
)
# Every part and what it may import besides itself. A part is a package or a module, and
# a module belongs to the longest part that its name starts with.
ARROWS: dict[str, tuple[str, ...]] = {
    **{part: FS[:rung] for rung, part in enumerate(FS)},
    **{part: ("fs", *NYDUSIFY[:rung]) for rung, part in enumerate(NYDUSIFY)},
    "fs.drivers": (*FS[: FS.index("fs.drivers")], "fs.mounts"),
    "fs.daemon": (*FS[: FS.index("fs.daemon")], "fs.mounts", "fs.heap"),
    "fs.mounts": (),
    "fs.heap": (),
    "fs.rootdir": ("fs.mounts",),
    "fs": ("fs",),
    "nydusify": ("fs", "nydusify"),
    "snapshotter": ("fs",),
    "runner": ("snapshotter", "fs"),
    "benchmarks": ("fs", "nydusify", "snapshotter", "runner"),
    "tests": ("fs", "nydusify", "snapshotter", "runner", "benchmarks"),
}

# Heavy or dangerous imports live in few places.
PLACES: dict[str, tuple[str, ...]] = {
    "pyfuse3": ("fs.drivers", "fs.daemon", "tests"),
    "trio": (
        "fs.cache",
        "fs.image.tree",
        "fs.image.trace",
        "fs.image.source",
        "fs.image.contents",
        "fs.drivers",
        "fs.daemon",
        "benchmarks.link",
        "tests",
    ),
    "requests": ("fs.registry", "fs.backend", "tests"),
    "rich": ("nydusify", "benchmarks", "tests"),
    "ctypes": ("fs.mounts", "fs.heap", "runner.syscalls", "tests"),
}


def part_of(module: str) -> str:
    parts = [part for part in ARROWS if within(module, part)]
    return max(parts, key=len, default="")


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def test_every_module_belongs_to_a_part() -> None:
    assert [module for module in modules() if not part_of(module)] == []


@pytest.mark.parametrize("part", ARROWS)
def test_part_imports_only_what_it_may(part: str) -> None:
    allowed = (part, *ARROWS[part])
    wrong = [
        f"{module} imports {name}"
        for module in modules()
        if part_of(module) == part
        for name in imports_of(module)
        if name.split(".")[0] in OURS and not any(within(name, target) for target in allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize("library", PLACES)
def test_library_is_imported_only_in_its_place(library: str) -> None:
    wrong = [
        module
        for module in modules()
        if any(within(name, library) for name in imports_of(module))
        and not any(within(module, place) for place in PLACES[library])
    ]
    assert wrong == []


def test_a_wrong_arrow_would_be_seen() -> None:
    assert part_of("fs.cache.blob") == "fs.cache"
    assert part_of("fs.cli") == "fs"
    assert part_of("fsx") == ""
    assert not any(
        within("nydusify.verbs.convert", target) for target in ("runner", *ARROWS["runner"])
    )
    assert not any(within("nydusify.images.opened", target) for target in ARROWS["nydusify.blobs"])
