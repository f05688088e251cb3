"""What the documents say is there, is there."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from fs.daemon.api_routes import _ROUTES
from fs.daemon.verbs import VERBS
from fs.format.errors import UsageError
from tests.house.sources import PACKAGES, REPOSITORY, tracked_files
from tests.house.test_packaging import CLI_MODULES

DOCUMENTS = tracked_files("*.md")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEV_VERB = re.compile(r"\./dev ([a-z]+)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
OWN_PATH = re.compile(
    r"(?<![\w./-])((?:fs|nydusify|runner|snapshotter|tests|benchmarks|docs)/[\w./-]+\.[a-z]+)\b"
)
# Names of the place where this was written, of no meaning elsewhere.
FOREIGN_PATHS = re.compile(r"/[w]ork/|\.\./[s]hared")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Document and words of every call of one of our commands in a code block."""
    for document in DOCUMENTS:
        for language, block in FENCED.findall(document.read_text()):
            if language not in ("sh", "console"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while words and words[0] in ("sudo", "env"):
                    del words[0]
                if words and Path(words[0]).name in CLI_MODULES:
                    yield document.name, words


def test_there_are_commands_to_check() -> None:
    assert {Path(words[0]).name for _, words in commands()} == set(CLI_MODULES)


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=f"{name}: {' '.join(words)}") for name, words in commands()]
)
def test_documented_command_is_accepted(words: list[str]) -> None:
    parser = import_module(CLI_MODULES[Path(words[0]).name]).parser()
    assert isinstance(parser, argparse.ArgumentParser)
    plain = [word for word in words[1:] if word not in ("&", "|", ">", "&&")]
    try:
        parser.parse_args(plain)
    except UsageError as refused:
        pytest.fail(f"{shlex.join(words)} is refused: {refused}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_dev_verbs_exist(document: Path) -> None:
    cases = set(re.findall(r"^    ([a-z]+)(?: \|[^)]*)?\)", (REPOSITORY / "dev").read_text(), re.M))
    assert "setup" in cases
    assert set(DEV_VERB.findall(document.read_text())) - cases == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert [name for name in targets if not (document.parent / name).exists()] == []


def test_files_that_are_named_are_there() -> None:
    """In documents, and in what modules say of each other."""
    named = {
        (str(path.relative_to(REPOSITORY)), name)
        for path in tracked_files("*.md", "*.py")
        for name in OWN_PATH.findall(path.read_text())
    }
    assert ("README.md", "docs/startup.json") in named
    assert [pair for pair in sorted(named) if not (REPOSITORY / pair[1]).exists()] == []


def test_no_paths_of_one_workplace() -> None:
    text_files = [p for p in tracked_files() if p.suffix in (".py", ".md", ".sh", ".toml", "")]
    wrong = [
        str(path.relative_to(REPOSITORY))
        for path in text_files
        if FOREIGN_PATHS.search(path.read_text(errors="ignore"))
    ]
    assert wrong == []


def test_readme_maps_the_folders() -> None:
    rows = re.findall(r"^\| `(\w+)/` \|", (REPOSITORY / "README.md").read_text(), re.M)
    assert {*PACKAGES, "benchmarks", "tests", "docs"} == set(rows)


def test_architecture_names_every_part() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 120
    modules = {
        path.relative_to(REPOSITORY).with_suffix("")
        for path in tracked_files("*.py")
        if path.relative_to(REPOSITORY).parts[0] in PACKAGES and path.name != "__init__.py"
    }
    packages = {str(module.parent) for module in modules} - {"fs"}  # named module by module
    assert [name for name in sorted(packages) if f"`{name}/`" not in text] == []


def test_operations_name_every_verb_of_the_control_socket_and_route() -> None:
    told = (REPOSITORY / "docs/operations.md").read_text()
    rows = [line for line in told.splitlines() if line.startswith("|")]
    missing = [verb for verb in ("mount", *VERBS) if not any(f"`{verb}`" in row for row in rows)]
    for route in _ROUTES:
        # A row names its first route whole, and what follows by its end: `…/fuse/takeover`.
        ends = ["…/" + route.split("/", count)[count] for count in range(2, route.count("/") + 1)]
        if not any(re.search(rf"[` ]{re.escape(name)}[`?]", told) for name in (route, *ends)):
            missing.append(route)
    assert missing == []
