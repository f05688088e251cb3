"""`nydusify copy`: the same digests elsewhere, and no byte sent that need not be."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fs.registry.descriptor import Descriptor
from fs.registry.mediatypes import OCI_INDEX, OCI_MANIFEST
from fs.registry.platform import parse_platform
from fs.registry.store import open_reader, open_writer
from nydusify.cli import main
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry
from tests.registry.images import make_image, push_image

Captured = pytest.CaptureFixture[str]


def copy(capsys: Captured, source: str, target: str, *more: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["copy", "--source", source, "--target", target, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def digest_of(place: str) -> str:
    return open_reader(place).resolve(nydus=True).descriptor.digest


@pytest.mark.registry
def test_through_all_kinds_of_places(
    images: Path, registry: Registry, tmp_path: Path, capsys: Captured
) -> None:
    """Layout, registry, another repository there, archive, layout: one digest all the way."""
    places = [f"oci:{images}:nydus", f"{registry.host}/copy/one:t", f"{registry.host}/copy/two:t",
              f"file://{tmp_path}/a.tar", f"oci:{tmp_path}/back:t"]  # fmt: skip
    told = [copy(capsys, *pair) for pair in pairwise(places)]
    assert {each["target_digest"] for each in told} == {digest_of(places[0])}
    assert told[0]["sent"] == told[0]["size"] > 0
    assert told[1]["sent"] == 0  # mounted
    assert main(["check", places[-1], "--source", f"oci:{images}:plain"]) == 0
    uploads = [r for r in registry.requests("/copy/two/blobs/uploads/") if "PUT" in str(r)]
    assert uploads == []


@pytest.mark.registry
def test_once_more_sends_nothing(images: Path, registry: Registry, capsys: Captured) -> None:
    source, target = f"oci:{images}:plain", f"{registry.host}/copy/again:t"
    assert copy(capsys, source, target)["sent"] > 0
    assert copy(capsys, source, target)["sent"] == 0


@pytest.fixture
def index(stack: list[bytes], tmp_path: Path) -> str:
    """An index with two platforms, of one of them an ordinary and a Nydus image."""
    place = f"oci:{tmp_path}/multi"
    write_plain_image(f"{place}:amd", stack)
    write_plain_image(f"{place}:arm", stack[:1])
    assert main(["convert", "--source", f"{place}:amd", "--target", f"{place}:nydus"]) == 0
    entries = []
    for tag, platform, artifact in (
        ("amd", "linux/amd64", ""),
        ("nydus", "linux/amd64", "application/vnd.nydus.image.manifest.v1+json"),
        ("arm", "linux/s390x", ""),
    ):
        found = open_reader(f"{place}:{tag}").resolve(nydus=True).descriptor
        entries.append(Descriptor(OCI_MANIFEST, found.digest, found.size, {},
                                  parse_platform(platform), (), artifact))  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX,
                "manifests": [entry.to_json() for entry in entries]}  # fmt: skip
    open_writer(f"{place}:all").push_manifest(json.dumps(document).encode(), OCI_INDEX, tag=True)
    return f"{place}:all"


@pytest.mark.registry
def test_of_an_index(index: str, registry: Registry, capsys: Captured) -> None:
    base = f"{registry.host}/copy/index"
    whole = copy(capsys, index, f"{base}:all")
    source = open_reader(index).index()
    assert source is not None
    assert (whole["target_digest"], whole["manifests"]) == (source.digest, 3)
    one = copy(capsys, index, f"{base}:one", "--platform", "linux/s390x")
    assert one["target_digest"] == source.manifests[2].digest
    both = copy(capsys, index, f"{base}:both", "--platform", "linux/amd64")
    found = open_reader(f"{base}:both").index()
    assert found is not None
    assert [e.digest for e in found.manifests] == [e.digest for e in source.manifests[:2]]
    assert both["manifests"] == 2
    words = ["copy", "--source", index, "--target", f"{base}:no", "--platform", "linux/riscv64"]
    assert main(words) == 5
    assert "only for linux/amd64, linux/s390x" in capsys.readouterr().err


@pytest.mark.registry
def test_damage_is_not_copied(images: Path, registry: Registry, tmp_path: Path) -> None:
    assert main(["copy", "--source", f"oci:{images}:nydus", "--target", f"oci:{tmp_path}/c:t"]) == 0
    layer = open_reader(f"oci:{tmp_path}/c:t").resolve(nydus=True).manifest.layers[0]
    path = tmp_path / "c/blobs" / layer.digest.replace(":", "/")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    target = f"{registry.host}/copy/damaged:t"
    assert main(["copy", "--source", f"oci:{tmp_path}/c:t", "--target", target]) == 4
    assert main(["inspect", target]) == 5  # no tag


@pytest.mark.registry
@pytest.mark.oci_tools
def test_others_read_the_archive(registry: Registry, images: Path, tmp_path: Path) -> None:
    archive = f"docker-archive:{tmp_path}/a.tar"
    assert main(["copy", "--source", f"oci:{images}:plain", "--target", archive]) == 0
    subprocess.run(
        ["skopeo", "copy", f"oci-archive:{tmp_path}/a.tar", f"oci:{tmp_path}/o:t"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert digest_of(f"oci:{tmp_path}/o:t") == digest_of(f"oci:{images}:plain")


def test_wrong_words(images: Path, tmp_path: Path) -> None:
    same = f"oci:{images}:plain"
    assert main(["copy", "--source", same, "--target", same]) == 2
    assert main(["copy", "--source", f"file://{tmp_path}/no", "--target", f"oci:{tmp_path}/x"]) == 5
    (tmp_path / "no").write_text("x" * 600)
    assert main(["copy", "--source", f"file://{tmp_path}/no", "--target", f"oci:{tmp_path}/x"]) == 3


def nested(place: str, depth: int, width: int) -> None:
    """An index of `width` times the same index, and so on, `depth` of them; an image below."""
    writer = open_writer(place)
    sample = make_image(b"below")
    push_image(writer, sample, tag=False)
    entry = sample.descriptor
    for number in range(depth):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": {"n": str(number)},
                    "manifests": [entry.to_json()] * width}  # fmt: skip
        raw = json.dumps(document).encode()
        entry = writer.push_manifest(raw, OCI_INDEX, tag=number + 1 == depth)
    writer.close()


def test_indexes_that_name_each_other_a_million_times(tmp_path: Path, capsys: Captured) -> None:
    nested(f"oci:{tmp_path}/in:wide", 3, 1000)
    told = copy(capsys, f"oci:{tmp_path}/in:wide", f"oci:{tmp_path}/out:t")
    assert told["manifests"] == 1
    nested(f"oci:{tmp_path}/in:deep", 10, 1)
    arguments = ["--source", f"oci:{tmp_path}/in:deep", "--target", f"oci:{tmp_path}/none:t"]
    assert main(["copy", *arguments]) == 3
    assert main(["convert", "--all-platforms", *arguments]) == 3
    assert capsys.readouterr().err.count("nested too deep") == 2
    assert not (tmp_path / "none").exists()
