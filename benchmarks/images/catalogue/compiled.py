"""Images that compile, and what compilers made."""

from __future__ import annotations

from benchmarks.images.recipe import PATH, Layer, Recipe, Run
from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Exit

_SOURCES = (("source", "/source"),)

JRE = Layer("openjdk-17-jre-headless", packages=("openjdk-17-jre-headless",))


def _hello(tree: Tree) -> None:
    """Compiled where there is a compiler, and run where there is none."""
    source = tree.files / "Hello.java"
    (tree.stage / "tmp/Hello.java").write_bytes(source.read_bytes())
    tree.run_in_stage("javac", "-d", "/tmp", "/tmp/Hello.java")
    tree.write("opt/app/Hello.class", (tree.stage / "tmp/Hello.class").read_bytes())


OPENJDK = Recipe(
    "openjdk",
    (JRE, Layer("a program", stage=("openjdk-17-jdk-headless",), change=_hello)),
    Run("arguments", Exit("^hello \\[a, b\\]$"), ("java", "-cp", "/opt/app", "Hello", "b", "a")),
    {"Env": [PATH], "Cmd": ["java", "--version"]},
)

GCC = Recipe(
    "gcc",
    (Layer("gcc libc6-dev", packages=("gcc", "libc6-dev")),),
    Run("compile", Exit("^hello 3$"),
        ("sh", "-c", "gcc -O1 -o /tmp/hello /source/hello.c && exec /tmp/hello"), mounts=_SOURCES),
    {"Env": [PATH], "Cmd": ["bash"]},
)  # fmt: skip

GOLANG = Recipe(
    "golang",
    (Layer("golang-go", packages=("golang-go",)),),
    Run("compile", Exit("^hello 3$"), ("go", "run", "/source/hello.go"), mounts=_SOURCES),
    {"Env": [PATH, "HOME=/root", "GOFLAGS=-mod=mod"], "Cmd": ["bash"]},
)
