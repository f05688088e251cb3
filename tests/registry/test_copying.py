"""Images copied between places, and manifests that refer to others."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from fs.format.errors import FormatError, VerifyError
from fs.registry.copying import copy_below, copy_manifest
from fs.registry.descriptor import Descriptor, describe
from fs.registry.manifest import Manifest, parse_manifest
from fs.registry.mediatypes import OCI_INDEX, OCI_MANIFEST
from fs.registry.platform import parse_platform
from fs.registry.referrers import fallback_tag
from fs.registry.store import StoreOptions, open_reader, open_writer
from tests.parts.registry import Registry
from tests.registry.faulty import Reply, Request, start_faulty
from tests.registry.images import Sample, make_image, make_index, push_image

pytestmark = pytest.mark.registry
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def push_index(place: str) -> list[Sample]:
    """An index for two platforms, of which one image has two layers in common with the other."""
    common = os.urandom(200_000)
    samples = [make_image(common, b"one", platform=parse_platform("linux/amd64")),
               make_image(common, b"two", platform=parse_platform("linux/arm64"))]  # fmt: skip
    with closing(open_writer(place)) as writer:
        for sample in samples:
            push_image(writer, sample, tag=False)
        raw = make_index(*((s, parse_platform(p)) for s, p in
                           zip(samples, ("linux/amd64", "linux/arm64"), strict=True)))  # fmt: skip
        writer.push_manifest(raw, OCI_INDEX, tag=True)
    return samples


def copy(source: str, target: str) -> None:
    with closing(open_reader(source)) as reader, closing(open_writer(target)) as writer:
        top = reader.index()
        assert top
        copy_below(top, reader, writer)
        writer.push_manifest(top.raw, top.media_type, tag=True)


def whole(place: str, samples: list[Sample]) -> None:
    with closing(open_reader(place)) as reader:
        for sample in samples:
            platform = parse_platform("linux/amd64" if sample is samples[0] else "linux/arm64")
            image = reader.resolve(platform)
            assert image.manifest.digest == sample.descriptor.digest
            for blob in sample.layers:
                assert reader.read_blob(blob, blob.size) == sample.blobs[blob.digest]


def test_in_one_registry_nothing_is_sent(registry: Registry) -> None:
    samples = push_index(f"{registry.host}/copy/source:v1")
    copy(f"{registry.host}/copy/source:v1", f"{registry.host}/copy/target:v1")
    asked = registry.requests("/v2/copy/target/blobs/")
    whole(f"{registry.host}/copy/target:v1", samples)
    assert not [r for r in asked if r["http.request.method"] in ("GET", "PUT", "PATCH")]


def test_into_a_layout_and_back(registry: Registry, tmp_path: Path) -> None:
    samples = push_index(f"{registry.host}/copy/out:v1")
    copy(f"{registry.host}/copy/out:v1", f"oci:{tmp_path}/layout:a")
    whole(f"oci:{tmp_path}/layout:a", samples)
    copy(f"oci:{tmp_path}/layout:a", f"{registry.host}/copy/back:v1")
    whole(f"{registry.host}/copy/back:v1", samples)


def test_a_damaged_blob_is_not_copied(tmp_path: Path) -> None:
    samples = push_index(f"oci:{tmp_path}/in:a")
    path = tmp_path / "in/blobs/sha256" / samples[1].layers[1].digest[7:]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(VerifyError):
        copy(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:a")
    assert not (tmp_path / "out/index.json").exists()


def test_foreign_layers_stay_where_they_are(tmp_path: Path) -> None:
    sample = make_image(b"own")
    document = json.loads(sample.raw)
    foreign = Descriptor(FOREIGN, "sha256:" + "1" * 64, 10, urls=("https://example.com/layer",))
    document["layers"].append(foreign.to_json())
    raw = json.dumps(document).encode()
    with closing(open_writer(f"oci:{tmp_path}/in:a")) as writer:
        push_image(writer, sample, tag=False)
        writer.push_manifest(raw, OCI_MANIFEST, tag=True)
    with (closing(open_reader(f"oci:{tmp_path}/in:a")) as reader,
          closing(open_writer(f"oci:{tmp_path}/out:a")) as writer):  # fmt: skip
        copied = copy_manifest(describe(raw, OCI_MANIFEST), reader, writer)
    assert isinstance(copied, Manifest)
    assert copied.raw == raw


# --- referrers --------------------------------------------------------------------------------


def referring(subject: Sample, note: str, artifact_type: str) -> bytes:
    document = json.loads(subject.raw)
    document |= {"subject": subject.descriptor.to_json(), "annotations": {"note": note}}
    if artifact_type:
        document["artifactType"] = artifact_type
    return json.dumps(document).encode()


def test_referrers_where_the_registry_keeps_no_list(registry: Registry) -> None:
    """Debian's docker-registry knows nothing of them: the list is under the fallback tag."""
    place, sample = f"{registry.host}/referrers", make_image(b"subject")
    kept = [referring(sample, "one", "application/x-one"), referring(sample, "two", "")]
    with closing(open_writer(f"{place}:v1")) as writer:
        push_image(writer, sample)
        for raw in (*kept, kept[0]):  # the second time it is there already
            writer.push_manifest(raw, OCI_MANIFEST, tag=False)
    with closing(open_reader(f"{place}:v1")) as reader:
        found = reader.referrers(sample.descriptor.digest)
        assert reader.referrers("sha256:" + "0" * 64) == []
    assert [entry.digest for entry in found] == [describe(raw, "").digest for raw in kept]
    types = [entry.artifact_type for entry in found]
    assert types == ["application/x-one", sample.config.media_type]
    assert found[0].annotations == {"note": "one"}
    with closing(open_reader(f"{place}:{fallback_tag(sample.descriptor.digest)}")) as reader:
        assert reader.index() is not None


def test_referrers_where_the_registry_keeps_the_list() -> None:
    """A registry of the specification's version 1.1; none of Debian's programs is one."""
    sample = make_image(b"subject")
    raw = referring(sample, "one", "application/x-one")
    listed = describe(raw, OCI_MANIFEST).to_json() | {"artifactType": "application/x-one"}

    def behave(request: Request) -> Reply:
        if request.method == "PUT":
            headers = {"OCI-Subject": sample.descriptor.digest}
            return Reply(201, headers)
        if "/referrers/" in request.path:
            document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}
            return Reply(200, {"Content-Type": OCI_INDEX}, json.dumps(document).encode())
        return Reply(404)

    with start_faulty(behave) as server:
        options = StoreOptions(plain_http=True)
        with closing(open_writer(f"{server.host}/x:v1", options)) as writer:
            writer.push_manifest(raw, OCI_MANIFEST, tag=False)
        with closing(open_reader(f"{server.host}/x:v1", options)) as reader:
            found = reader.referrers(sample.descriptor.digest)
        assert [entry.artifact_type for entry in found] == ["application/x-one"]
        assert not server.to(fallback_tag(sample.descriptor.digest))


def test_a_list_of_referrers_that_is_none(registry: Registry) -> None:
    """Somebody has pushed an image under the fallback tag: it is not overwritten."""
    place, sample = f"{registry.host}/referrers-taken", make_image(b"subject")
    tag = fallback_tag(sample.descriptor.digest)
    with closing(open_writer(f"{place}:{tag}")) as writer:
        push_image(writer, sample)
    with closing(open_writer(f"{place}:v1")) as writer:
        push_image(writer, sample)
        with pytest.raises(FormatError, match="is no index"):
            writer.push_manifest(referring(sample, "x", ""), OCI_MANIFEST, tag=False)
    with closing(open_reader(f"{place}:{tag}")) as reader:
        kept = parse_manifest(reader.resolve().manifest.raw, None, "test")
    assert kept.digest == sample.descriptor.digest
