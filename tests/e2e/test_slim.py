"""`nydusify slim`: the image that is left does what the traced run did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo import CACHE
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.languages import FLASK
from benchmarks.images.start import run_options, start
from nydusify.startup.recording import lazyrun
from tests.conftest import programs_missing
from tests.e2e.commands import succeed

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlay]


def slimmed(source: str, target: str, trace: Path, *more: str) -> dict[str, Any]:
    words = ("--source", source, "--target", target, "--trace", trace, "--json", *more)
    told: dict[str, Any] = json.loads(succeed("nydusify", "slim", *words))
    return told


@pytest.mark.system
@pytest.mark.erofs
@pytest.mark.parametrize(
    ("driver", "least", "unread"),
    [("auto", 2_500_000, {"/lib/libcrypto.so.1.1"}), ("erofs", 1_000_000, set())],
)
def test_a_shell(
    nydus_layout: Path, driver: str, least: int, unread: set[str], tmp_path: Path
) -> None:
    """By both transports: the kernel's reads of whole blobs name files and their neighbours."""
    source, trace = f"oci:{nydus_layout}:nydus", tmp_path / "trace"
    own = ("--root", tmp_path / "root", "--driver", driver)
    said = succeed("lazyrun", "run", "--rm", *own, "--trace", trace, source)
    told = slimmed(source, f"oci:{tmp_path}/slim:t", trace)
    assert succeed("lazyrun", "run", "--rm", *own, f"oci:{tmp_path}/slim:t") == said
    assert told["left_size"] > least
    slimmed(source, f"oci:{tmp_path}/plain:t", trace, "--plain")
    assert succeed("lazyrun", "run", "--rm", *own, f"oci:{tmp_path}/plain:t") == said
    assert unread <= {path for path, _ in told["left"]}


def output(command: Sequence[str]) -> str:
    return start(FLASK, command).output


def test_the_demo_image(tmp_path: Path) -> None:
    """Python, Flask and its modules: most of the system is not needed, all of the run is."""
    if reason := programs_missing("mmdebstrap"):
        pytest.skip(reason)
    plain = f"oci:{cached_image(FLASK, CACHE / 'images', lambda text: None)}:{TAG}"
    source, trace = f"oci:{tmp_path}/image:nydus", tmp_path / "trace"
    succeed("nydusify", "convert", "--source", plain, "--target", source)
    run = [lazyrun(), "run", *run_options(FLASK), "--root", str(tmp_path / "root")]
    before = output([*run, "--trace", str(trace), source, *FLASK.run.arguments])
    told = slimmed(source, f"oci:{tmp_path}/slim:t", trace)
    assert told["left_size"] > told["kept_size"]
    assert told["stored_after"] < 0.5 * told["stored_before"]
    assert output([*run, f"oci:{tmp_path}/slim:t", *FLASK.run.arguments]) == before
