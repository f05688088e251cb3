"""Several platforms, merged indexes and referrers, as containerd, skopeo and mounts see them."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fs.daemon.order import MountOptions
from fs.format.errors import PlainImageError
from fs.image.source import resolve
from fs.registry.descriptor import Descriptor, describe
from fs.registry.manifest import is_nydus
from fs.registry.mediatypes import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    NYDUS_ARTIFACT,
    NYDUS_BLOB,
    NYDUS_CONFIG,
    NYDUS_OS_FEATURE,
    OCI_INDEX,
)
from fs.registry.platform import default_platform, parse_platform
from fs.registry.referrers import fallback_tag
from fs.registry.store import open_reader, open_writer
from nydusify.cli import main
from tests.nydusify.images import pulled_tree
from tests.nydusify.test_convert import assert_shows, publish, stack
from tests.parts.containerd import start_containerd
from tests.parts.layers import LayerTar
from tests.parts.registry import Registry

pytestmark = [pytest.mark.registry, pytest.mark.root, pytest.mark.overlay]

FORMAT, NOT_FOUND, USAGE = 3, 5, 2
OWN = str(default_platform())
OTHER = "linux/arm64" if OWN != "linux/arm64" else "linux/amd64"
ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}


def layer_for(platform: str) -> bytes:
    return LayerTar().add("platform", data=platform.encode() * 1000).tar()


def tars(platform: str) -> list[bytes]:
    return [stack()[0], layer_for(platform)]


def publish_index(place: str, *platforms: str) -> dict[str, str]:
    """Images with one layer in common, an attestation, and one for Windows; digests by platform."""
    digests: dict[str, str] = {}
    entries = []
    for platform in (*platforms, "windows/amd64", "unknown/unknown"):
        parsed = parse_platform(platform)
        config: dict[str, Any] = {"os": parsed.os, "architecture": parsed.architecture}
        digests[platform] = publish(f"{place}-part", tars(platform), config=config)
        with closing(open_reader(f"{place}-part")) as reader:
            manifest = reader.resolve(parsed).manifest
        entry = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw), platform=parsed,
                           annotations=ATTESTATION if "unknown" in platform else {})  # fmt: skip
        entries.append(entry.to_json())
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    with closing(open_writer(place)) as writer:
        writer.push_manifest(raw, OCI_INDEX, tag=True)
    return digests


def convert(source: str, target: str, *more: str) -> int:
    return main(["convert", "--source", source, "--target", target, *more])


def entries_of(place: str) -> list[Descriptor]:
    with closing(open_reader(place)) as reader:
        index = reader.index()
    assert index is not None
    return index.manifests


def tree_for(place: str, platform: str, work: Path) -> bytes:
    """What the file that tells the platforms apart has in the Nydus image."""
    work.mkdir()
    content = pulled_tree(place, work, parse_platform(platform))[b"platform"].content
    return content.encode()


@pytest.mark.parametrize("choice", [("--all-platforms",), ("--platform", f"{OTHER}, {OWN}")])
def test_several_platforms(registry: Registry, tmp_path: Path, choice: tuple[str, ...]) -> None:
    place = f"{registry.host}/platforms/{len(choice)}"
    publish_index(f"{place}:1", OWN, OTHER)
    report = tmp_path / "report.json"
    assert convert(f"{place}:1", f"{place}:n", *choice, "--output-json", str(report)) == 0
    entries = entries_of(f"{place}:n")
    assert sorted(str(entry.platform) for entry in entries) == sorted([OWN, OTHER])
    seen = {tree_for(f"{place}:n", p, tmp_path / p.replace("/", "-")) for p in (OWN, OTHER)}
    assert len(seen) == 2
    told = json.loads(report.read_text())
    assert [image["target_digest"] for image in told["images"]] == [e.digest for e in entries]
    assert [image["platform"] for image in told["images"]] == [str(e.platform) for e in entries]
    common = [layer["blob_digest"] for image in told["images"] for layer in image["layers"]]
    assert common[0] == common[2]


def test_one_of_several_is_no_index(registry: Registry) -> None:
    place = f"{registry.host}/platforms/one"
    publish_index(f"{place}:1", OWN, OTHER)
    assert convert(f"{place}:1", f"{place}:n", "--platform", OTHER) == 0
    with closing(open_reader(f"{place}:n")) as reader:
        assert reader.index() is None
        assert str(reader.resolve(parse_platform(OTHER), nydus=True).config.platform) == OTHER
    assert convert(f"{place}:1", f"{place}:x", "--platform", "linux/s390x,linux/386") == NOT_FOUND


@pytest.mark.containerd
@pytest.mark.oci_tools
@pytest.mark.parametrize("every", [False, True], ids=["own", "all"])
def test_merged_index(registry: Registry, tmp_path: Path, every: bool) -> None:
    source = f"{registry.host}/merged/source-{every}:1".lower()
    target = f"{registry.host}/merged/target-{every}:1".lower()
    digests = publish_index(source, OWN, OTHER)
    more = ["--all-platforms"] if every else []
    assert convert(source, target, "--merge-platform", *more) == 0
    entries = entries_of(target)
    plain = [entry for entry in entries if entry.artifact_type != NYDUS_ARTIFACT]
    nydus = entries[len(plain) :]
    assert [entry.digest for entry in plain] == (
        list(digests.values()) if every else [digests[OWN]]
    )
    assert {entry.artifact_type for entry in nydus} == {NYDUS_ARTIFACT}
    for entry in nydus:
        assert entry.platform
        assert entry.platform.os_features == (NYDUS_OS_FEATURE,)
    assert len(nydus) == (2 if every else 1)
    with closing(open_reader(target)) as reader:
        assert reader.resolve().descriptor.digest == digests[OWN]
        image = reader.resolve(nydus=True)
    assert is_nydus(image.manifest)
    assert image.manifest.config.media_type == NYDUS_CONFIG
    assert_shows(target, tars(OWN), tmp_path)
    sent = [r for r in registry.requests(f"/v2/{target.partition('/')[2][:-2]}/blobs/uploads/")
            if r["http.request.method"] in ("PATCH", "PUT")]  # fmt: skip
    assert len(sent) <= 4 * len(nydus)  # blobs, bootstrap, configuration: nothing of the plain ones
    seen_by_others(target, digests[OWN], tmp_path)


def seen_by_others(place: str, digest: str, work: Path) -> None:
    """containerd and skopeo take the plain image."""
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{place}"],
        check=True, capture_output=True, text=True)  # fmt: skip
    assert NYDUS_BLOB not in inspected.stdout
    with start_containerd(work) as containerd:
        containerd.ctr("image", "pull", "--plain-http", "--snapshotter", "native", place)
        raw = containerd.ctr("content", "ls", "-q")
        assert digest in raw.split()
        mount = work / "mnt"
        mount.mkdir()
        containerd.ctr("image", "mount", "--snapshotter", "native", place, mount)
        try:
            assert (mount / "platform").read_bytes() == OWN.encode() * 1000
        finally:
            containerd.ctr("image", "unmount", "--rm", "--snapshotter", "native", mount)


def test_merging_again_keeps_one_nydus_image(registry: Registry, tmp_path: Path) -> None:
    """In place, as for an image that is converted after each push."""
    place = f"{registry.host}/merged/again:1"
    publish_index(place, OWN, OTHER)
    for _ in range(2):
        assert convert(place, place, "--merge-platform", "--all-platforms") == 0
        found = entries_of(place)
    assert len(found) == 6
    assert len({entry.digest for entry in found}) == 6


@pytest.mark.parametrize("option", ["--merge-platform", "--with-referrer"])
def test_what_is_no_image_has_no_plain_form(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l").write_bytes(stack()[0])
    assert convert(f"layer:{tmp_path}/l", f"oci:{tmp_path}/out", option) == USAGE
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_merged_into_a_layout_from_an_archive(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", tars(OWN))
    name, archive = "example.test/x:1", f"{tmp_path}/a.tar"
    assert (
        convert(f"oci:{tmp_path}/in:a", name, "--merge-platform", "--target-archive", archive) == 0
    )
    assert (
        convert(name, f"oci:{tmp_path}/out:b", "--source-archive", archive, "--merge-platform") == 0
    )
    assert len(entries_of(f"oci:{tmp_path}/out:b")) == 2
    assert_shows(f"oci:{tmp_path}/out:b", tars(OWN), tmp_path)


# --- referrers ----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_a_plain_image_leads_to_its_nydus_image(
    registry: Registry, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{registry.host}/referred:1"
    digest = publish(place, tars(OWN))
    with pytest.raises(PlainImageError):
        resolve(place, MountOptions(), cache, {})
    assert convert(place, place[:-1] + "n", "--with-referrer") == 0
    assert "note:" not in capsys.readouterr().err
    with closing(open_reader(place[:-1] + "n")) as reader:
        image = reader.resolve(nydus=True)
        listed = reader.referrers(digest)
    assert image.manifest.subject == Descriptor(
        image.manifest.media_type,
        digest,
        image.manifest.subject.size if image.manifest.subject else 0,
    )
    assert image.manifest.artifact_type == NYDUS_ARTIFACT
    assert [(e.digest, e.artifact_type) for e in listed] == [
        (image.descriptor.digest, NYDUS_ARTIFACT)
    ]
    assert entries_of(f"{registry.host}/referred:{fallback_tag(digest)}") == listed
    assert resolve(place, MountOptions(), cache, {}).manifest_digest == image.descriptor.digest
    with pytest.raises(PlainImageError):  # a digest means these bytes and nobody else's
        resolve(f"{registry.host}/referred@{digest}", MountOptions(), cache, {})


def test_referrers_that_are_no_nydus_images(registry: Registry, cache: str) -> None:
    """A signature, a Nydus image of something else, one that is gone: the image stays plain."""
    place = f"{registry.host}/referred-wrongly:1"
    digest = publish(place, tars(OWN))
    other = publish(f"{registry.host}/referred-wrongly:2", tars(OTHER))
    assert convert(f"{registry.host}/referred-wrongly:2", f"{registry.host}/referred-wrongly:n",
                   "--with-referrer") == 0  # fmt: skip
    listed = entries_of(f"{registry.host}/referred-wrongly:{fallback_tag(other)}")
    wrong = [listed[0].to_json(), {**listed[0].to_json(), "artifactType": "application/x-sign"},
             {**listed[0].to_json(), "digest": digest}]  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": wrong}
    with closing(open_writer(f"{registry.host}/referred-wrongly:{fallback_tag(digest)}")) as writer:
        writer.push_manifest(json.dumps(document).encode(), OCI_INDEX, tag=True)
    with pytest.raises(PlainImageError):
        resolve(place, MountOptions(), cache, {})


def test_a_referrer_in_another_repository_is_noted(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"{registry.host}/here:1", tars(OWN))
    assert convert(f"{registry.host}/here:1", f"{registry.host}/there:1", "--with-referrer") == 0
    assert "own repository only" in capsys.readouterr().err


# --- Docker's media types ------------------------------------------------------------------------


@pytest.mark.oci_tools
def test_docker_types(registry: Registry, tmp_path: Path) -> None:
    place = f"{registry.host}/docker-types"
    publish(f"{place}:1", tars(OWN))
    assert convert(f"{place}:1", f"{place}:n", "--docker-v2-format") == 0
    with closing(open_reader(f"{place}:n")) as reader:
        manifest = reader.resolve(nydus=True).manifest
    types = [manifest.media_type, manifest.config.media_type, manifest.layers[-1].media_type]
    assert types == [DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP]
    assert_shows(f"{place}:n", tars(OWN), tmp_path)
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{place}:n"],
                         check=True, capture_output=True).stdout  # fmt: skip
    assert describe(raw, "").digest == manifest.digest
    for wrong in ("--oci", "--with-referrer"):
        assert convert(f"{place}:1", f"{place}:x", "--docker-v2-format", wrong) == USAGE
