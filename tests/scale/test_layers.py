"""More layers than the option string of mount(2) can name, and the one tree they show."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.e2e.commands import call, succeed
from tests.e2e.images import manifest_of, write_image
from tests.scale.processes import measure

pytestmark = [pytest.mark.scale, pytest.mark.root, pytest.mark.overlay, pytest.mark.system]

LAYERS = 130
#: Every layer brings two files, replaces one, and deletes one of the layer before.
SCRIPT = "cat /shared; ls /brief; ls /by | wc -l; cat /by/*"


def small_layer(number: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in [
            ("shared", b"by %d\n" % number),
            (f"by/{number:03d}", b"%d\n" % number),
            (f"brief/{number}", b"for one layer\n"),
            (f"brief/.wh.{number - 1}", b""),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_700_000_000
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


#: The lines that SCRIPT prints.
LAST = LAYERS - 1
EXPECTED = [f"by {LAST}", str(LAST), str(LAST), *map(str, range(1, LAYERS))]


@pytest.fixture(scope="module")
def stack(work: Path, base_layer: bytes) -> Path:
    layout = work / "stack"
    write_image([base_layer, *map(small_layer, range(1, LAYERS))], f"oci:{layout}:plain")
    return layout


def run(root: Path, image: str) -> list[str]:
    done = call("lazyrun", "run", "--rm", "--root", root, "--entrypoint", "", image,
                "sh", "-c", SCRIPT)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_plain_image_of_many_layers_runs(stack: Path, work: Path) -> None:
    assert run(work / "plain", f"oci:{stack}:plain") == EXPECTED


@pytest.mark.fuse
def test_many_layers_convert_and_run(stack: Path, work: Path) -> None:
    target = work / "converted"
    figures = measure(
        "nydusify", "convert", "--source", f"oci:{stack}:plain", "--target", f"oci:{target}:nydus"
    )
    print(f"convert, {LAYERS} layers: {figures.seconds:.1f} s")
    assert len(manifest_of(target, "nydus")["layers"]) == LAYERS + 1
    assert run(work / "lazy", f"oci:{target}:nydus") == EXPECTED


@pytest.mark.fuse
def test_more_layers_than_blobs_can_be(stack: Path, work: Path, base_layer: bytes) -> None:
    """254 blobs is what the format holds; the refusal is one line, and nothing is published."""
    source, target = work / "tall", work / "refused"
    write_image([base_layer, *map(small_layer, range(1, 256))], f"oci:{source}:plain")
    done = call("nydusify", "convert", "--source", f"oci:{source}:plain",
                "--target", f"oci:{target}:nydus")  # fmt: skip
    assert done.returncode != 0
    assert "254 are possible" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (target / "index.json").exists()
    succeed("lazyrun", "prune", "--root", work / "plain")
