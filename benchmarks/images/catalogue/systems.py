"""Images that are little more than a system: busybox, Debian itself, and Alpine from a file."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.images.recipe import PATH, Layer, Recipe, Run
from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Exit


def _busybox(tree: Tree) -> None:
    """One static program with its many names, and the files that programs look for."""
    program = tree.take("bin/busybox")
    for name in tree.run_in_stage("/bin/busybox", "--list").split():
        if name != program.name:
            os.link(program, program.parent / name)
    tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    tree.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    for path in ("proc", "sys", "dev", "root"):
        tree.directory(path)
    tree.directory("tmp", 0o1777)


BUSYBOX = Recipe(
    "busybox",
    (Layer("busybox", stage=("busybox-static",), change=_busybox),),
    Run("echo", Exit("^hello$"), ("echo", "hello")),
    {"Env": [PATH], "Cmd": ["sh"]},
    scratch=True,
)

DEBIAN = Recipe(
    "debian",
    (),
    Run("echo", Exit("^hello$"), ("echo", "hello")),
    {"Env": [PATH], "Cmd": ["bash"]},
)


def alpine(archive: Path) -> Recipe:
    """Alpine is in no package: its root file system is given as a tar, compressed or not."""
    return Recipe(
        "alpine",
        (Layer("the root file system", archive=archive),),
        Run("echo", Exit("^hello$"), ("echo", "hello")),
        {"Env": [PATH], "Cmd": ["/bin/sh"]},
        scratch=True,
    )
