"""`nydusify export --block`: the kernel mounts the one file, and sees what overlayfs shows."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from nydusify.cli import main
from tests.conftest import programs_missing
from tests.nydusify.images import pull
from tests.parts.layers import expected_tree, overlay_of, unlike, with_least_names
from tests.parts.plain import write_plain_image
from tests.parts.stacks import alpine
from tests.parts.trees import Entry, scan

Captured = pytest.CaptureFixture[str]


def export(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["export", "--block", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def mounted_tree(disk: Path, point: Path) -> dict[bytes, Entry]:
    point.mkdir()
    mount(disk, point, "erofs", MS_RDONLY)
    try:
        return with_least_names(scan(point))
    finally:
        umount(point, MNT_DETACH)


@pytest.mark.erofs
@pytest.mark.overlay
def test_the_kernel_mounts_it(
    images: Path, stack: list[bytes], tmp_path: Path, capsys: Captured
) -> None:
    disk = tmp_path / "x.disk"
    told = export(capsys, f"oci:{images}:nydus", "-O", str(disk))
    assert told["size"] == disk.stat().st_size
    assert "verity" not in told
    (tmp_path / "work").mkdir()
    with overlay_of(stack, tmp_path / "work") as merged:
        assert unlike(expected_tree(merged), mounted_tree(disk, tmp_path / "mnt")) == []


@pytest.mark.erofs
@pytest.mark.overlay
@pytest.mark.samples
def test_alpine_with_verity(samples: Path, tmp_path: Path, capsys: Captured) -> None:
    tars = alpine(samples)
    write_plain_image(f"oci:{tmp_path}/i:p", tars)
    words = ["convert", "--source", f"oci:{tmp_path}/i:p", "--target", f"oci:{tmp_path}/i:n"]
    assert main(words) == 0
    disk = tmp_path / "x.disk"
    told = export(capsys, f"oci:{tmp_path}/i:n", "-O", str(disk), "--verity")
    assert told["verity"]["hash_offset"] == told["size"] < disk.stat().st_size
    (tmp_path / "work").mkdir()
    with overlay_of(tars, tmp_path / "work") as merged:
        assert unlike(expected_tree(merged), mounted_tree(disk, tmp_path / "mnt")) == []


def verify(disk: Path, options: str) -> int:
    """veritysetup's own opinion."""
    if reason := programs_missing("veritysetup"):
        pytest.skip(reason)
    *words, root = shlex.split(options)
    command = ["veritysetup", "verify", *words, str(disk), str(disk), root]
    return subprocess.run(command, capture_output=True).returncode


def test_veritysetup_agrees(images: Path, tmp_path: Path, capsys: Captured) -> None:
    disk = tmp_path / "x.disk"
    options = export(capsys, f"oci:{images}:nydus", "-O", str(disk), "--verity")["verity"][
        "options"
    ]
    assert verify(disk, options) == 0
    with disk.open("r+b") as file:
        file.seek(70_000)
        file.write(b"?")
    assert verify(disk, options) != 0


def test_as_nydus_image_is_called(images: Path, tmp_path: Path, capsys: Captured) -> None:
    bootstrap, _ = pull(f"oci:{images}:nydus", tmp_path)
    words = ["export", "--block", "--verity", "-B", str(bootstrap), "-D", str(tmp_path)]
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('dm-verity options: --no-superblock --format=1 -s "" --hash=sha256 ')
    assert verify(tmp_path / "image.boot.disk", line.partition(": ")[2]) == 0


@pytest.mark.erofs
@pytest.mark.samples
def test_an_image_that_nydus_made(samples: Path, tmp_path: Path, capsys: Captured) -> None:
    disk, output, name = tmp_path / "x.disk", tmp_path / "tree", samples / "rafs-v6-2.2.boot"
    export(capsys, "-B", str(name), "-D", str(samples), "-O", str(disk))
    assert main(["unpack", str(name), "-D", str(samples), "--output-dir", str(output)]) == 0
    assert mounted_tree(disk, tmp_path / "mnt") == with_least_names(scan(output))


@pytest.mark.erofs
@pytest.mark.samples
def test_version_5_gets_its_chunks_onto_blocks(
    samples: Path, tmp_path: Path, capsys: Captured
) -> None:
    name, disk, output = samples / "rafs-v5-sha256.boot", tmp_path / "5.disk", tmp_path / "out"
    told = export(capsys, "-B", str(name), "-D", str(samples), "-O", str(disk), "--verity")
    assert told["block_size"] == 4096
    assert verify(disk, told["verity"]["options"]) == 0
    assert main(["unpack", str(name), "-D", str(samples), "--output-dir", str(output)]) == 0
    assert mounted_tree(disk, tmp_path / "mnt") == with_least_names(scan(output))


def test_wrong_words(images: Path, tmp_path: Path) -> None:
    assert main(["export", f"oci:{images}:nydus", "-O", str(tmp_path / "x")]) == 2
    assert main(["export", "--block", f"oci:{images}:nydus"]) == 2
    assert main(["export", "--block", f"oci:{images}:nydus", "-O", str(tmp_path)]) == 2
    assert main(["export", "--block", f"oci:{images}:nydus", "-O", str(tmp_path / "no/x")]) == 5
    assert list(tmp_path.iterdir()) == []
