"""What goes wrong ends in one line, the documented exit code, and an untouched target."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fs.mounts import MNT_DETACH, mount, umount
from fs.registry.descriptor import describe
from fs.registry.mediatypes import OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST
from fs.registry.store import open_writer
from nydusify.cli import main
from tests.nydusify.test_convert import publish, stack
from tests.parts.layers import LayerTar
from tests.parts.plain import publish as publish_stored
from tests.parts.registry import Registry, free_port, htpasswd_auth, start_registry

FORMAT, VERIFY, NOT_FOUND, ACCESS, UNREACHABLE, STORAGE, USAGE = 3, 4, 5, 6, 7, 8, 2


class Refused:
    """Converts into a layout that has an image already, and expects that to stay all there is."""

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.work = tmp_path / "work"
        self.target = tmp_path / "target"
        self._capsys = capsys
        publish(f"oci:{self.target}:b", [LayerTar().add("old").tar()])

    def __call__(self, source: str, code: int, *words: str, options: tuple[str, ...] = ()) -> None:
        index = (self.target / "index.json").read_bytes()
        found = main(["convert", "--source", source, "--target", f"oci:{self.target}:b",
                      "--work-dir", str(self.work), *options])  # fmt: skip
        error = self._capsys.readouterr().err
        assert found == code, error
        assert error.startswith("nydusify: ")
        assert error.count("\n") == 1
        for word in words:
            assert word in error
        assert (self.target / "index.json").read_bytes() == index
        assert not self.work.exists() or list(self.work.iterdir()) == []


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(tmp_path, capsys)


# --- images that are not what they should be ------------------------------------------------


def damage(layout: Path, digest: str, change: Any) -> None:  # noqa: ANN401 - bytes -> bytes
    path = layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]


def test_changed_manifest(refused: Refused, tmp_path: Path) -> None:
    digest = publish(f"oci:{tmp_path}/in:a", stack())
    damage(tmp_path / "in", digest, lambda raw: raw.replace(b'"schemaVersion": 2,', b""))
    refused(f"oci:{tmp_path}/in:a", VERIFY)


@pytest.mark.parametrize("change", [flipped, lambda data: data[:-1], lambda data: data[:9]])
def test_changed_layer(refused: Refused, tmp_path: Path, change: Any) -> None:  # noqa: ANN401
    tar = LayerTar().add("a", data=b"x" * 1000).tar()
    publish(f"oci:{tmp_path}/in:a", [tar], encoding="plain")
    digest = describe(tar, "").digest
    damage(tmp_path / "in", digest, change)
    refused(f"oci:{tmp_path}/in:a", VERIFY, digest[7:])


def zstd_frames() -> list[bytes]:
    """A layer in two frames."""
    tar = LayerTar().add("a", data=os.urandom(5000)).add("b", data=b"b" * 300_000).tar()
    return [zstandard.compress(tar[:4000]), zstandard.compress(tar[4000:])]


TRUNCATIONS = {
    "in the first frame": lambda first, second: first[:-100],
    "after the first frame": lambda first, second: first,
    "in a frame's header": lambda first, second: first + second[:3],
    "in the last block": lambda first, second: first + second[:-1],
}


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_truncated_zstd_layer(refused: Refused, tmp_path: Path, name: str) -> None:
    """As a file of its own, and in an image whose manifest describes what is left of it."""
    frames = zstd_frames()
    cut = TRUNCATIONS[name](*frames)
    (tmp_path / "l").write_bytes(cut)
    refused(f"layer:{tmp_path}/l", FORMAT, str(tmp_path / "l"))
    tar = b"".join(map(zstandard.decompress, frames))
    diff_id = describe(tar, "").digest
    publish_stored(f"oci:{tmp_path}/in:a", [(OCI_LAYER_ZSTD, cut)], [diff_id])
    nothing_decodes = name == "in the first frame"  # and so it is an empty layer, but another
    refused(f"oci:{tmp_path}/in:a", VERIFY if nothing_decodes else FORMAT, "layer 1 of 1")
    (tmp_path / "l").write_bytes(b"".join(frames))
    assert main(["convert", "--source", f"layer:{tmp_path}/l",
                 "--target", f"oci:{tmp_path}/out"]) == 0  # fmt: skip


def test_wrong_diff_id(refused: Refused, tmp_path: Path) -> None:
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    publish(f"oci:{tmp_path}/in:a", [LayerTar().add("a").tar()], config={"rootfs": rootfs})
    refused(f"oci:{tmp_path}/in:a", VERIFY, "layer 1 of 1", "0" * 64)


def test_missing_layer(refused: Refused, tmp_path: Path) -> None:
    tar = LayerTar().add("a").tar()
    publish(f"oci:{tmp_path}/in:a", [tar], encoding="plain")
    (tmp_path / "in/blobs/sha256" / describe(tar, "").digest[7:]).unlink()
    refused(f"oci:{tmp_path}/in:a", NOT_FOUND)


def test_number_of_diff_ids(refused: Refused, tmp_path: Path) -> None:
    rootfs = {"type": "layers", "diff_ids": []}
    publish(f"oci:{tmp_path}/in:a", [LayerTar().add("a").tar()], config={"rootfs": rootfs})
    refused(f"oci:{tmp_path}/in:a", FORMAT, "diff IDs")


def test_nydus_image(refused: Refused, tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack()[:1])
    assert main(["convert", "--source", f"oci:{tmp_path}/in:a",
                 "--target", f"oci:{tmp_path}/in:n"]) == 0  # fmt: skip
    refused._capsys.readouterr()
    refused(f"oci:{tmp_path}/in:n", FORMAT, "Nydus image already")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/x-made-up",
    ],
)
def test_layers_of_other_types(refused: Refused, tmp_path: Path, media_type: str) -> None:
    tar = LayerTar().add("a").tar()
    layer = {**describe(tar, OCI_LAYER).to_json(), "mediaType": media_type}
    publish(f"oci:{tmp_path}/in:a", [tar], encoding="plain", layers=[layer])
    refused(f"oci:{tmp_path}/in:a", FORMAT, "layer 1 of 1", media_type)


HELM = "application/vnd.cncf.helm.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"


@pytest.mark.parametrize(
    ("config_type", "raw", "artifact_type", "told"),
    [
        (HELM, b'{"name":"chart","version":"1.0.0"}', None, HELM),
        (EMPTY, b"{}", "application/vnd.example.sbom", "application/vnd.example.sbom"),
        (EMPTY, b"not JSON", None, EMPTY),
        ("application/vnd.docker.plugin.v1+json", b"{}", None, "docker.plugin"),
    ],
)
def test_artifacts(
    refused: Refused,
    tmp_path: Path,
    config_type: str,
    raw: bytes,
    artifact_type: str | None,
    told: str,
) -> None:
    """What helm, ORAS and docker keep in registries beside images."""
    place = f"oci:{tmp_path}/in:a"
    writer = open_writer(place)
    content = describe(b"chart", "application/vnd.example.content")
    writer.push_blob(content, b"chart")
    writer.push_blob(describe(raw, config_type), raw)
    manifest: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": describe(raw, config_type).to_json(), "layers": [content.to_json()],
    }  # fmt: skip
    if artifact_type:
        manifest["artifactType"] = artifact_type
    writer.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, tag=True)
    refused(place, FORMAT, "is an artifact of type", told, "no container image")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            {
                "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
                "artifactType": "application/vnd.example.sbom",
                "blobs": [],
            },
            "is an artifact of type 'application/vnd.example.sbom', no container image",
        ),
        ({"schemaVersion": 1, "fsLayers": []}, "Docker manifest schema 1 is not supported"),
    ],
)
def test_manifests_of_other_times(
    refused: Refused, tmp_path: Path, document: dict[str, Any], told: str
) -> None:
    """They cannot be pushed to today's registries, but lie in layouts."""
    publish(f"oci:{tmp_path}/in:a", [LayerTar().add("a").tar()])
    raw = json.dumps(document).encode()
    media_type = document.get("mediaType", "application/vnd.docker.distribution.manifest.v1+json")
    described = describe(raw, str(media_type))
    (tmp_path / "in/blobs/sha256" / described.digest.partition(":")[2]).write_bytes(raw)
    index = json.loads((tmp_path / "in/index.json").read_bytes())
    named = {"org.opencontainers.image.ref.name": "old"}
    index["manifests"].append({**described.to_json(), "annotations": named})
    (tmp_path / "in/index.json").write_text(json.dumps(index))
    refused(f"oci:{tmp_path}/in:old", FORMAT, told)


def test_an_index_of_nothing(refused: Refused, tmp_path: Path) -> None:
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    open_writer(f"oci:{tmp_path}/in:a").push_manifest(raw, OCI_INDEX, tag=True)
    refused(f"oci:{tmp_path}/in:a", NOT_FOUND, "no image for", "its index names none")


@pytest.mark.parametrize("name", ["bzip2", "xz"])
def test_other_compressions(refused: Refused, tmp_path: Path, name: str) -> None:
    module = __import__({"bzip2": "bz2", "xz": "lzma"}[name])
    (tmp_path / "l").write_bytes(module.compress(LayerTar().add("a").tar()))
    refused(f"layer:{tmp_path}/l", FORMAT, name)


# --- places that do not answer ----------------------------------------------------------------


@pytest.mark.registry
def test_no_such_tag(refused: Refused, registry: Registry) -> None:
    refused(f"{registry.host}/convert/nothing:1", NOT_FOUND)


def test_nobody_listens(refused: Refused) -> None:
    refused(f"127.0.0.1:{free_port()}/convert/x:1", UNREACHABLE, options=("--plain-http",))


def test_no_such_files(refused: Refused, tmp_path: Path) -> None:
    for source in (f"layer:{tmp_path}/none", f"dir:{tmp_path}/none", f"oci:{tmp_path}/none:a"):
        refused(source, NOT_FOUND, str(tmp_path / "none"))


@pytest.mark.registry
def test_failed_push_leaves_no_tag(registry: Registry, tmp_path: Path) -> None:
    """The registry has the blobs of an earlier run, but never a manifest that lacks something."""
    publish(f"oci:{tmp_path}/in:a", [LayerTar().add("a", data=b"x").add("b").tar()[:1200]])
    target = f"{registry.host}/convert/never:1"
    assert main(["convert", "--source", f"oci:{tmp_path}/in:a", "--target", target]) == FORMAT
    assert not registry.requests("/convert/never/manifests/")


@pytest.mark.registry
def test_refused_login(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "l").write_bytes(LayerTar().add("a", data=b"x").tar())
    auth = htpasswd_auth(tmp_path, "someone", "secret")
    with start_registry(tmp_path / "registry", auth=auth) as guarded:
        code = main(["convert", "--source", f"layer:{tmp_path}/l", "--target",
                     f"{guarded.host}/x/y:1", "--auth-file", str(no_logins(tmp_path))])  # fmt: skip
        assert code == ACCESS
        assert capsys.readouterr().err.count("\n") == 1
        assert not list(guarded.storage.rglob("*tags*"))


def no_logins(tmp_path: Path) -> Path:
    path = tmp_path / "auth.json"
    path.write_text("{}")
    return path


# --- command lines ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--fs-version", "5"),
        ("--fs-chunk-size", "1000"),
        ("--fs-chunk-size", "32MiB"),
        ("--fs-chunk-size", "2KiB"),
        ("--fs-chunk-size", "big"),
        ("--prefetch-patterns", "relative"),
        ("--platform", "a/b/c/d"),
        ("--threads", "-1"),
    ],
)
def test_wrong_options(refused: Refused, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "l").write_bytes(LayerTar().tar())
    refused(f"layer:{tmp_path}/l", USAGE, options=options)


@pytest.mark.parametrize("target", ["dir:/tmp/x", "layer:/tmp/x", "a/b@sha256:" + "0" * 64])
def test_wrong_targets(tmp_path: Path, target: str) -> None:
    assert main(["convert", "--source", f"layer:{tmp_path}/l", "--target", target]) == USAGE


# --- the disk -----------------------------------------------------------------------------------


@pytest.mark.root
def test_full_disk(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "l").write_bytes(LayerTar().add("big", data=os.urandom(4 << 20)).tar())
    refused.work.mkdir()
    mount("tmpfs", refused.work, "tmpfs", 0, "size=1m")
    try:
        refused(f"layer:{tmp_path}/l", STORAGE, str(refused.work), os.strerror(errno.ENOSPC))
    finally:
        umount(refused.work, MNT_DETACH)
