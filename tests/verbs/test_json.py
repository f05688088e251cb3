"""What every verb tells with --json: one document on standard output, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nydusify.cli import COMMANDS, main
from tests.nydusify.images import pull
from tests.verbs.test_inspect import write_trace

pytestmark = pytest.mark.root

Captured = pytest.CaptureFixture[str]

#: The words of each verb, of which {images} has the images and {work} the files, and what its
#: document has to tell.
CALLS: dict[str, tuple[str, set[str]]] = {
    "convert": (
        "--source oci:{images}:plain --target oci:{work}/o:1",
        {"source", "target", "target_digest", "source_size", "target_size", "layers", "seconds"},
    ),
    "check": ("oci:{images}:nydus", {"ok", "rules"}),
    "chunkdict": (
        "generate --sources oci:{images}:nydus,oci:{images}:nydus --target oci:{work}/o:d",
        {"chunks"},
    ),
    "commit": (
        "--upper {work}/rootfs --source oci:{images}:nydus --target oci:{work}/o:c",
        {"target", "target_digest", "pushed"},
    ),
    "compact": ("--source oci:{images}:nydus --target oci:{work}/o:s", {"target_digest"}),
    "copy": ("--source oci:{images}:nydus --target oci:{work}/o:n", {"target"}),
    "create": ("-B {work}/made.boot -D {work}/blobs {work}/rootfs", {"bootstrap", "blobs"}),
    "export": ("--block --verity oci:{images}:nydus --output {work}/disk", {"size", "verity"}),
    "inspect": ("oci:{images}:nydus", {"blobs"}),
    "merge": ("--bootstrap {work}/merged.boot {work}/blobs/image.boot", {"bootstrap", "blobs"}),
    "pack": ("--source-dir {work}/rootfs --name a --output-dir {work}", {"bootstrap"}),
    "build": ("--source-dir {work}/rootfs --name b --output-dir {work}", {"bootstrap"}),
    "slim": (
        "--source oci:{images}:nydus --target oci:{work}/o:t --trace {work}/trace",
        {"kept_size", "left_size"},
    ),
    "stat": ("oci:{images}:nydus", {"base_image", "target_image"}),
    "unpack": ("oci:{images}:nydus --output {work}/tar", {"entries", "size"}),
    "cache": ("ls --layer-cache {work}/kept", set()),
    "optimize": (
        "--source oci:{images}:nydus --target oci:{work}/o:f --prefetch-files {work}/files",
        {"source", "target", "target_digest", "chunks", "startup_size", "startup_blob", "pushed"},
    ),
}
FILED = ("convert", "check", "create", "merge", "stat", "optimize")


@pytest.mark.parametrize("verb", [command.name for command in COMMANDS])
def test_one_document(verb: str, images: Path, tmp_path: Path, capsys: Captured) -> None:
    told = document(verb, images, tmp_path, capsys)
    assert CALLS[verb][1] <= set(told)


@pytest.mark.parametrize("verb", FILED)
def test_a_file_has_the_same(verb: str, images: Path, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "told.json"
    told = document(verb, images, tmp_path, capsys, "--output-json", str(file))
    assert json.loads(file.read_text()) == told


def document(verb: str, images: Path, work: Path, capsys: Captured, *more: str) -> Any:  # noqa: ANN401 - JSON
    (work / "rootfs").mkdir()
    (work / "rootfs/file").write_text("file")
    (work / "blobs").mkdir()
    pull(f"oci:{images}:nydus", work / "blobs")
    (work / "pulled").mkdir()
    write_trace(work / "trace", f"oci:{images}:nydus", work / "pulled", b"usr/big")
    (work / "files").write_text("/usr/big\n")
    words = [word.format(images=images, work=work) for word in CALLS[verb][0].split()]
    capsys.readouterr()
    assert main([verb, *words, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)
