"""`nydusify unpack` and `convert --reverse`: the tree comes back as overlayfs shows it."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.store import open_reader, open_writer
from nydusify.cli import main
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar, expected_tree, overlay_of, unlike, with_least_names
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry
from tests.parts.stacks import UPPERS, base
from tests.parts.trees import Entry, scan
from tests.parts.waiting import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.overlay]


def overlay_tree(tars: list[bytes], work: Path) -> dict[bytes, Entry]:
    """Without link counts: a name that an upper layer hides counts there and here not."""
    work.mkdir()
    with overlay_of(tars, work) as merged:
        return uncounted(expected_tree(merged))


def uncounted(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    return {path: entry._replace(nlink=0) for path, entry in tree.items()}


def scanned(root: Path) -> dict[bytes, Entry]:
    return uncounted(with_least_names(scan(root)))


def test_into_a_directory(images: Path, stack: list[bytes], tmp_path: Path) -> None:
    assert main(["unpack", f"oci:{images}:nydus", "--output-dir", str(tmp_path / "out")]) == 0
    assert unlike(overlay_tree(stack, tmp_path / "work"), scanned(tmp_path / "out")) == []


@pytest.mark.parametrize("upper", ["odd names", "odd xattrs", "sticky", "opaque first"])
def test_a_tar_has_it_all(upper: str, tmp_path: Path) -> None:
    """Read by Python's tarfile in the oracle: names that are no text, times, attributes."""
    tars = [base().tar(), UPPERS[upper].tar()]
    write_plain_image(f"oci:{tmp_path}/i:p", tars)
    for words in (
        ["convert", "--source", f"oci:{tmp_path}/i:p", "--target", f"oci:{tmp_path}/i:n"],
        ["unpack", f"oci:{tmp_path}/i:n", "-o", str(tmp_path / "x.tar")],
    ):
        assert main(words) == 0
    again = overlay_tree([(tmp_path / "x.tar").read_bytes()], tmp_path / "again")
    assert unlike(overlay_tree(tars, tmp_path / "work"), again) == []


def test_a_reader_who_has_enough_is_no_failure(images: Path, tmp_path: Path) -> None:
    call = "import sys; from nydusify.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", call, "unpack", f"oci:{images}:nydus", "-o", "-"]
    with (tmp_path / "said").open("w+b") as said:
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
        assert done.stdout
        assert done.stdout.read(512)
        done.stdout.close()
        assert done.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert said.tell() == 0


@pytest.mark.parametrize("program", ["nydusify.cli", "fs.cli", "runner.cli"])
def test_so_it_is_of_every_command(program: str) -> None:
    read, write = os.pipe()
    os.close(read)
    call = f"import sys; from {program} import main; sys.exit(main())"
    try:
        command = [sys.executable, "-c", call, "--help"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_gnu_tar_reads_it_from_a_pipe(images: Path) -> None:
    call = "import sys; from nydusify.cli import main; sys.exit(main())"
    command = f"{sys.executable} -c '{call}' unpack oci:{images}:nydus -o - | tar t"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert {"./", "usr/big", "usr/old", "dir/"} <= set(done.stdout.splitlines())
    assert "usr/gone" not in done.stdout


def test_a_bootstrap_with_its_blobs(images: Path, tmp_path: Path) -> None:
    bootstrap, _ = pull(f"oci:{images}:nydus", tmp_path)
    words = ["unpack", "--bootstrap", str(bootstrap), "-o", str(tmp_path / "x.tar")]
    assert main(words) == 2
    assert not (tmp_path / "x.tar").exists()
    assert main([*words, "--blob-dir", str(tmp_path)]) == 0
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getmember("usr/big").size == 256 * 5000


@pytest.mark.samples
@pytest.mark.parametrize("name", ["rafs-v6-2.2.boot", "rafs-v5-sha256.boot"])
def test_images_that_nydus_made(samples: Path, name: str, tmp_path: Path) -> None:
    output = tmp_path / "x.tar"
    words = ["unpack", str(samples / name), "-D", str(samples), "-o", str(output), "--json"]
    assert main(words) == 0
    with tarfile.open(output) as archive:
        sizes = [member.size for member in archive if member.isreg()]
    assert len(sizes) >= 2
    assert sum(sizes) > 10_000


def test_damage_leaves_no_file(images: Path, tmp_path: Path) -> None:
    bootstrap, blobs = pull(f"oci:{images}:nydus", tmp_path)
    for path in blobs.values():
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    words = ["unpack", str(bootstrap), "-D", str(tmp_path), "-o", str(tmp_path / "x.tar")]
    assert main(words) == 4
    assert not [path for path in tmp_path.iterdir() if "x.tar" in path.name]


def test_a_full_disk_leaves_no_directory(images: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = ["unpack", f"oci:{images}:nydus", "--output-dir"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small], check=True)
    try:
        assert main([*command, str(small / "new/out")]) == 8
        assert list(small.iterdir()) == []
        (small / "empty").mkdir()
        assert main([*command, str(small / "empty")]) == 8
        assert [path.name for path in small.rglob("*")] == ["empty"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_plain_images_and_full_directories_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", f"oci:{images}:plain", "-o", str(tmp_path / "x")]) == 10
    (tmp_path / "full").mkdir()
    (tmp_path / "full/there").touch()
    assert main(["unpack", f"oci:{images}:nydus", "--output-dir", str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_reverse(images: Path, stack: list[bytes], compression: str, tmp_path: Path) -> None:
    words = ["convert", "--reverse", "--source", f"oci:{images}:nydus"]
    words += ["--target", f"oci:{tmp_path}/o:t", "--layer-compression", compression]
    assert main([*words, "--single-layer"]) == 0
    reader = open_reader(f"oci:{tmp_path}/o:t")
    image = reader.resolve()
    plain = open_reader(f"oci:{images}:plain").resolve()
    for key in ("config", "architecture", "os"):
        assert image.config.document.get(key) == plain.config.document.get(key)
    (layer,) = image.manifest.layers
    assert image.manifest.media_type.startswith("application/vnd.oci")
    words = ["convert", "--source", f"oci:{tmp_path}/o:t", "--target", f"oci:{tmp_path}/o:again"]
    assert main(words) == 0
    assert main(["unpack", f"oci:{tmp_path}/o:again", "--output-dir", str(tmp_path / "out")]) == 0
    assert unlike(overlay_tree(stack, tmp_path / "work"), scanned(tmp_path / "out")) == []
    history = image.config.document["history"]
    assert [entry for entry in history if not entry.get("empty_layer")] == [history[-1]]
    assert layer.size == len(reader.read_blob(layer, 1 << 30))


def assert_same(place: str, stack: list[bytes], work: Path) -> None:
    """Seen by the kernel's overlayfs, as containerd would unpack it."""
    reader = open_reader(place)
    tars = [gzip.decompress(reader.read_blob(layer, 1 << 30))
            for layer in reader.resolve().manifest.layers]  # fmt: skip
    found, expected = overlay_tree(tars, work / "found"), overlay_tree(stack, work / "expected")
    assert unlike(expected, found) == []


def reversed_(source: str, target: str, tmp_path: Path, *more: str) -> Any:  # noqa: ANN401 - JSON
    report = tmp_path / "report.json"
    words = ["convert", "--reverse", "--source", source, "--target", target]
    assert main([*words, "--output-json", str(report), *more]) == 0
    return json.loads(report.read_text())


def test_a_layer_for_each_blob(images: Path, stack: list[bytes], tmp_path: Path) -> None:
    told = reversed_(f"oci:{images}:nydus", f"oci:{tmp_path}/o:t", tmp_path)
    assert told["made_of"] == "blobs"
    assert_same(f"oci:{tmp_path}/o:t", stack, tmp_path)
    reader = open_reader(f"oci:{tmp_path}/o:t")
    image = reader.resolve()
    names = []
    for layer in image.manifest.layers:
        with tarfile.open(fileobj=io.BytesIO(reader.read_blob(layer, 1 << 30))) as archive:
            names.append({m.name for m in archive.getmembers() if not m.isdir()})
    low, upper, rest = names
    assert {"usr/big", "etc/passwd"} <= low
    assert {"usr/old", "usr/more"} <= upper
    assert "usr/link" in rest
    assert not low & upper
    filled = [entry for entry in image.config.document["history"] if not entry.get("empty_layer")]
    assert len(filled) == 3
    again = reversed_(f"oci:{images}:nydus", f"oci:{tmp_path}/o:u", tmp_path)
    assert again["target_digest"] == told["target_digest"]


def test_layers_that_are_referred_to_come_back(
    images: Path, stack: list[bytes], tmp_path: Path
) -> None:
    low, upper = stack
    nothing = LayerTar().add("usr/.wh.old").directory("etc", mode=0o711).symlink("l", "x").tar()
    tars = [low, upper, nothing]
    place = f"oci:{tmp_path}/i"
    write_plain_image(f"{place}:plain", tars)
    words = ["convert", "--oci-ref", "--source", f"{place}:plain", "--target", f"{place}:ref"]
    assert main(words) == 0
    told = reversed_(f"{place}:ref", f"oci:{tmp_path}/o:t", tmp_path)
    originals = [each.digest for each in open_reader(f"{place}:plain").resolve().manifest.layers]
    assert told["made_of"] == "references"
    assert told["layer_digests"][:2] == originals[:2]
    assert len(told["layer_digests"]) == 3
    assert_same(f"oci:{tmp_path}/o:t", tars, tmp_path)


@pytest.mark.registry
@pytest.mark.parametrize("option", ["--merge-platform", "--with-referrer"])
def test_an_original_beside_it_comes_back(
    option: str, registry: Registry, stack: list[bytes], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    place = f"{registry.host}/reverse{option}"
    write_plain_image(f"{place}:plain", stack)
    words = ["convert", "--source", f"{place}:plain", "--target", f"{place}:nydus", option]
    assert main(words) == 0
    told = reversed_(f"{place}:nydus", f"oci:{tmp_path}/o:t", tmp_path)
    assert told["made_of"] == "original"
    original = open_reader(f"{place}:plain").resolve().descriptor.digest
    assert told["target_digest"] == original
    told = reversed_(f"{place}:nydus", f"oci:{tmp_path}/o:one", tmp_path, "--single-layer")
    assert told["made_of"] == "tree"
    if option == "--with-referrer":
        reader = open_reader(f"{place}:nydus")
        document = json.loads(reader.resolve(nydus=True).manifest.raw)
        write_plain_image(f"{place}:other", stack[:1])
        other = open_reader(f"{place}:other").resolve()
        document["subject"] |= {"digest": other.descriptor.digest, "size": len(other.manifest.raw)}
        writer = open_writer(f"{place}:lie")
        writer.push_manifest(json.dumps(document).encode(), OCI_MANIFEST, tag=True)
        told = reversed_(f"{place}:lie", f"oci:{tmp_path}/o:l", tmp_path)
        assert told["made_of"] == "blobs"
        assert "shows other files" in capsys.readouterr().err


@pytest.mark.oci_tools
def test_umoci_unpacks_what_reverse_made(images: Path, stack: list[bytes], tmp_path: Path) -> None:
    words = ["convert", "--reverse", "--source", f"oci:{images}:nydus"]
    assert main([*words, "--target", f"oci:{tmp_path}/o:t"]) == 0
    subprocess.run(
        ["umoci", "unpack", "--image", f"{tmp_path}/o:t", str(tmp_path / "bundle")],
        check=True, capture_output=True,
    )  # fmt: skip
    found = scanned(tmp_path / "bundle/rootfs")
    expected = overlay_tree(stack, tmp_path / "work")
    assert found.keys() == expected.keys()
    assert {p: (e.mode, e.uid, e.content) for p, e in found.items()} == {
        p: (e.mode, e.uid, e.content) for p, e in expected.items()
    }


def test_json(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack", f"oci:{images}:nydus", "-o", str(tmp_path / "x"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "x").read_bytes())) as archive:
        assert told["entries"] == len(archive.getmembers())
