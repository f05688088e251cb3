"""What `nydusify convert` lists to be read first: what it was told, what layers say, or a guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fs.format.bootstrap import Bootstrap
from fs.format.versions import open_bootstrap
from nydusify.cli import main
from nydusify.startup.startup_set import find
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image

_FILES = ["/etc/passwd", "/usr/bin/tool", "/bin/interpreter"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Two layers; the command is a script of the upper, its interpreter lies in the lower."""
    low = LayerTar().add("bin/interpreter", data=b"i" * 5000).add("etc/passwd", data=b"root")
    low.add("usr/bin/tool", data=b"#!/bin/no\n").add("usr/bin/other", data=b"o" * 9000)
    upper = LayerTar().add("usr/bin/tool", data=b"#!/bin/interpreter\n", mode=0o755)
    place = f"oci:{tmp_path}/in:a"
    write_plain_image(place, [low.tar(), upper.tar()], {"Cmd": ["tool"], "Env": ["PATH=/usr/bin"]})
    return place


def convert(source: str, work: Path, *words: str) -> tuple[Bootstrap, dict[str, Any]]:
    figures = work / "figures.json"
    target = f"oci:{work}/out:b"
    given = ["--source", source, "--target", target, "--output-json", str(figures)]
    assert main(["convert", *given, *words]) == 0
    bootstrap, _ = pull(target, work)
    return open_bootstrap(bootstrap.read_bytes(), "test"), json.loads(figures.read_text())


def nids(bootstrap: Bootstrap, paths: list[str]) -> list[int | None]:
    return [find(bootstrap, path.encode()) for path in paths]


def test_a_guess_is_listed_and_told(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path)
    assert list(bootstrap.prefetch) == nids(bootstrap, _FILES[:2])  # its interpreter cannot be run
    assert figures["startup_files"] == 2
    assert figures["startup_size"] == len(b"root") + len(b"#!/bin/interpreter\n")


def test_nothing_is_guessed_on_request(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path, "--startup", "none")
    assert list(bootstrap.prefetch) == []
    assert figures["startup_files"] == 0


@pytest.mark.parametrize("guess", [True, False])
def test_patterns_come_first(guess: bool, source: str, tmp_path: Path) -> None:
    more = ["--startup", "guess"] if guess else []
    words = ["--prefetch-patterns", "/usr/bin/other", "/usr/bin/tool", *more]
    bootstrap, _ = convert(source, tmp_path, *words)
    expected = ["/usr/bin/other", "/usr/bin/tool"] + (["/etc/passwd"] if guess else [])
    assert list(bootstrap.prefetch) == nids(bootstrap, expected)


def test_equal_digests_of_two_guesses(source: str, tmp_path: Path) -> None:
    digests = set()
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        _, figures = convert(source, tmp_path / str(number), "--threads", str(number))
        digests.add(figures["target_digest"])
    assert len(digests) == 1
