"""eStargz and zstd:chunked layers, made by stargz-snapshotter's own converter in containerd."""

from __future__ import annotations

import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fs.format.bootstrap import Bootstrap
from fs.format.versions import open_bootstrap
from fs.registry.descriptor import Descriptor
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.store import StoreOptions, open_reader, open_writer
from nydusify.cli import main
from tests.kinds.mounted import served
from tests.nydusify.images import pull
from tests.nydusify.test_caches import Watch, layers_of
from tests.nydusify.test_convert import as_overlayfs, assert_shows, publish, stack
from tests.parts.containerd import Containerd, start_containerd
from tests.parts.layers import LayerTar, expected_tree, unlike, with_least_names
from tests.parts.registry import Registry
from tests.parts.trees import scan

pytestmark = [
    pytest.mark.containerd,
    pytest.mark.estargz,
    pytest.mark.root,
    pytest.mark.overlay,
]

FORMAT, VERIFY, NOT_FOUND, UNREACHABLE, USAGE = 3, 4, 5, 7, 2
FIRST = ["usr/f31", "usr/bin/large", "usr/f12"]
CHUNKED = "io.containers.zstd-chunked."
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
KINDS = {"estargz": "--estargz", "chunked": "--zstdchunked"}


def tars() -> list[bytes]:
    """The usual stack without its opaque directory, so that all files put in front survive."""
    low, _, same, nothing = stack()
    upper = LayerTar().add("usr/.wh.f7").add("usr/f8", data=b"new")
    return [low, upper.tar(), same, nothing]


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """With images example.test/x:plain, :estargz and :chunked, and :first with files in front."""
    root = tmp_path_factory.mktemp("c")
    digest = publish(f"oci:{root}/in:plain", tars())
    with tarfile.open(root / "in.tar", "w") as archive:
        archive.add(root / "in", ".")
    lines = [{"path": path, "manifestDigest": digest, "layerIndex": 0} for path in FIRST]
    (root / "record").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with start_containerd(root) as running:
        plain = "example.test/x:plain"
        running.ctr("image", "import", "--index-name", plain, root / "in.tar")
        kinds: dict[str, tuple[object, ...]] = {tag: (kind,) for tag, kind in KINDS.items()}
        kinds["first"] = ("--estargz", "--estargz-record-in", root / "record")
        for tag, options in kinds.items():
            running.ctr("image", "convert", "--oci", *options, plain, f"example.test/x:{tag}",
                        program="ctr-remote")  # fmt: skip
        yield running


def convert(containerd: Containerd, source: str, target: str) -> int:
    return main(["convert", "--source", source, "--target", target,
                 "--containerd-address", str(containerd.address)])  # fmt: skip


def copy(containerd: Containerd, tag: str, target: str, **annotations: str | None) -> None:
    """The image of `tag` at `target`, with other annotations of its first layer."""
    options = StoreOptions(containerd_address=str(containerd.address))
    reader, writer = open_reader(f"containerd:example.test/x:{tag}", options), open_writer(target)
    manifest = reader.resolve().manifest
    for blob in (manifest.config, *manifest.layers):
        writer.push_blob(blob, reader.read_blob(blob, blob.size))
    document: dict[str, Any] = json.loads(manifest.raw)
    found = document["layers"][0]["annotations"]
    found |= annotations
    document["layers"][0]["annotations"] = {k: v for k, v in found.items() if v is not None}
    writer.push_manifest(json.dumps(document).encode(), OCI_MANIFEST, tag=True)


def bootstrap_of(place: str, work: Path) -> Bootstrap:
    work.mkdir()
    return open_bootstrap(pull(place, work)[0].read_bytes(), place)


def listed(image: Bootstrap, paths: list[str]) -> list[int]:
    found = []
    for path in paths:
        nid: int | None = image.root
        for name in path.encode().split(b"/"):
            assert nid is not None, path
            nid = image.lookup(nid, name)
        assert nid is not None, path
        found.append(nid)
    return found


@pytest.mark.parametrize("tag", ["plain", *KINDS])
def test_from_containerd(containerd: Containerd, tag: str, tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/out:b"
    assert convert(containerd, f"containerd:example.test/x:{tag}", target) == 0
    assert_shows(target, tars(), tmp_path)  # without tables of contents and landmarks
    assert list(bootstrap_of(target, tmp_path / "b").prefetch) == []


def test_what_is_in_front_is_prefetched(containerd: Containerd, tmp_path: Path) -> None:
    target = f"oci:{tmp_path}/out:b"
    assert convert(containerd, "containerd:example.test/x:first", target) == 0
    assert_shows(target, tars(), tmp_path)
    image = bootstrap_of(target, tmp_path / "b")
    assert list(image.prefetch) == listed(image, FIRST)
    assert main(["convert", "--source", "containerd:example.test/x:first",
                 "--target", f"oci:{tmp_path}/own:b", "--prefetch-patterns", "/usr/f1",
                 "--containerd-address", str(containerd.address)]) == 0  # fmt: skip
    image = bootstrap_of(f"oci:{tmp_path}/own:b", tmp_path / "own-b")
    assert list(image.prefetch) == listed(image, ["usr/f1"])


@pytest.mark.parametrize("key", ["toc.digest", "manifest-checksum"])
def test_a_wrong_table_of_contents(
    containerd: Containerd, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tag = "estargz" if key == "toc.digest" else "chunked"
    full = {"toc.digest": TOC_DIGEST}.get(key, f"{CHUNKED}{key}")
    copy(containerd, tag, f"oci:{tmp_path}/true:a")
    copy(containerd, tag, f"oci:{tmp_path}/false:a", **{full: "sha256:" + "0" * 64})
    assert convert(containerd, f"oci:{tmp_path}/true:a", f"oci:{tmp_path}/out:a") == 0
    assert convert(containerd, f"oci:{tmp_path}/false:a", f"oci:{tmp_path}/out:b") == VERIFY
    error = capsys.readouterr().err
    assert "layer 1 of 4" in error
    assert "table of contents" in error
    assert error.count("\n") == 1


def test_a_layer_file_tells_by_its_end(containerd: Containerd, tmp_path: Path) -> None:
    """Both kinds, with nothing that says so but the bytes."""
    options = StoreOptions(containerd_address=str(containerd.address))
    for tag in (*KINDS, "first"):
        reader = open_reader(f"containerd:example.test/x:{tag}", options)
        layer: Descriptor = reader.resolve().manifest.layers[0]
        (tmp_path / tag).write_bytes(reader.read_blob(layer, layer.size))
        target = f"oci:{tmp_path}/out:{tag}"
        assert main(["convert", "--source", f"layer:{tmp_path}/{tag}", "--target", target]) == 0
        image = bootstrap_of(target, tmp_path / f"b-{tag}")
        assert [entry.name for entry in image.entries(image.root)
                if entry.name.startswith((b".pre", b".no", b"stargz"))] == []  # fmt: skip
        assert list(image.prefetch) == (listed(image, FIRST) if tag == "first" else [])


def test_an_ordinary_layer_may_have_files_of_those_names(tmp_path: Path) -> None:
    layer = LayerTar().add("stargz.index.json", data=b"{}").add(".prefetch.landmark", data=b"x")
    publish(f"oci:{tmp_path}/in:a", [layer.tar()])
    target = f"oci:{tmp_path}/out:b"
    assert main(["convert", "--source", f"oci:{tmp_path}/in:a", "--target", target]) == 0
    assert_shows(target, [layer.tar()], tmp_path)


def test_containerd_that_has_not_what_is_asked_for(
    containerd: Containerd,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = f"oci:{tmp_path}/out"

    def refused(of: Containerd, name: str, code: int, words: str) -> None:
        assert convert(of, f"containerd:{name}", target) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"nydusify: containerd:{name}"), line
        assert words in line

    refused(containerd, "example.test/none:a", NOT_FOUND, "no such image in the namespace default")
    refused(containerd, "", USAGE, " lacks a name")
    refused(containerd, "a b", USAGE, "no image can have that name")
    name = "example.test/x:plain"
    monkeypatch.setenv("CONTAINERD_NAMESPACE", "elsewhere")
    refused(containerd, name, NOT_FOUND, "no such image in the namespace elsewhere")
    monkeypatch.delenv("CONTAINERD_NAMESPACE")
    refused(Containerd(tmp_path / "sock"), name, UNREACHABLE, f"no containerd at {tmp_path}/sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "dead"))
    refused(Containerd(tmp_path / "dead"), name, UNREACHABLE, "connection refused")
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        refused(containerd, name, USAGE, "needs containerd's client, ctr")
    publish(f"oci:{tmp_path}/in:gone", [LayerTar().add("gone", data=b"gone").tar()])
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    name = "example.test/x:gone"
    containerd.ctr("image", "import", "--index-name", name, tmp_path / "in.tar")
    layer = open_reader(f"oci:{tmp_path}/in:gone").resolve().manifest.layers[0]
    containerd.ctr("content", "rm", layer.digest)
    refused(containerd, name, NOT_FOUND, "discarded after unpacking")
    assert not (tmp_path / "out").exists()


@pytest.mark.fuse
@pytest.mark.registry
@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_referred_to_by_their_tables(
    containerd: Containerd,
    registry: Registry,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NYDUSIFY_CACHE", str(tmp_path / "cache"))
    source, target = f"{registry.host}/listed/{kind}:a", f"{registry.host}/listed/{kind}:ref"
    copy(containerd, kind, source)
    for again in (False, True):
        watch = Watch(registry, f"listed/{kind}")
        assert main(["convert", "--oci-ref", "--source", source, "--target", target]) == 0
        layers = set(layers_of(source))
        read = [
            request["http.response.written"]
            for request in watch.requests()
            if request["http.request.method"] == "GET"
            and request["http.request.uri"].rpartition("/")[2] in layers
        ]
        assert sum(read) < (1 if again else 20_000)  # of 3.3 MB
        assert again or len(read) > 0
    with as_overlayfs(tars(), tmp_path) as merged:
        expected = expected_tree(merged)
    with served(target, None, tmp_path, "fuse", plain_http=True) as place:
        assert unlike(expected, with_least_names(scan(place))) == []


def test_a_wrong_table_is_not_referred_by(
    containerd: Containerd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tag, key in (("estargz", TOC_DIGEST), ("chunked", f"{CHUNKED}manifest-checksum")):
        copy(containerd, tag, f"oci:{tmp_path}/false:a", **{key: "sha256:" + "0" * 64})
        places = ["--source", f"oci:{tmp_path}/false:a", "--target", f"oci:{tmp_path}/out:b"]
        assert main(["convert", "--oci-ref", *places]) == VERIFY
        error = capsys.readouterr().err
        assert "layer 1 of 4" in error
        assert "table of contents" in error


@pytest.mark.fuse
def test_without_a_trusted_table_a_layer_is_read(containerd: Containerd, tmp_path: Path) -> None:
    source, target = f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:1"
    copy(containerd, "estargz", source, **{TOC_DIGEST: None})
    assert main(["convert", "--oci-ref", "--source", source, "--target", target]) == 0
    with served(target, None, tmp_path, "fuse") as place:
        assert (place / "usr/f8").read_bytes() == b"new"
        assert (place / "usr/f49").read_bytes() == b"49" * 49


def test_a_table_in_a_file_is_enough(containerd: Containerd, tmp_path: Path) -> None:
    """As nydus-image has it: the layer itself need not be here."""
    copy(containerd, "estargz", f"oci:{tmp_path}/in:a")
    layer = open_reader(f"oci:{tmp_path}/in:a").resolve().manifest.layers[0]
    digest = layer.digest.removeprefix("sha256:")
    stored = tmp_path / "in/blobs/sha256" / digest
    with tarfile.open(stored) as archive:
        table = archive.extractfile("stargz.index.json")
        assert table
        (tmp_path / "toc.json").write_bytes(table.read())
    words = ["create", "-t", "estargztoc-ref", "-B", str(tmp_path / "b"), "-D", str(tmp_path / "d"),
             "--blob-id", digest, "--blob-data-size", str(layer.size)]  # fmt: skip
    assert main([*words, "--chunk-size", "1MiB", str(tmp_path / "toc.json")]) == FORMAT
    assert main([*words, str(tmp_path / "toc.json")]) == 0
    (tmp_path / "d" / digest).write_bytes(stored.read_bytes())
    source = f"layer:{stored}"
    assert main(["check", "-B", str(tmp_path / "b"), "-D", str(tmp_path / "d"),
                 "--source", source]) == 0  # fmt: skip
