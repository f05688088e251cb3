"""`nydusify inspect` and `stat`: what they tell of an image is what is in it."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fs.format.versions import open_bootstrap
from fs.image.trace import FORMAT
from nydusify.cli import main
from tests.nydusify.images import pull

Captured = pytest.CaptureFixture[str]


def ask(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["inspect", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_requests(images: Path, capsys: Captured) -> None:
    place = f"oci:{images}:nydus"
    assert ask(capsys, place, "-R", "stats")["inodes_count"] == 23
    blobs = ask(capsys, place, "-R", "blobs")
    assert [blob["blob_index"] for blob in blobs] == list(range(len(blobs)))
    listed = {row["name"]: row for row in ask(capsys, place, "-R", "ls /usr")}
    assert set(listed) == {"big", "old", "more", "link"}
    big = ask(capsys, place, "-R", "stat usr/big")
    assert (big["size"], big["inode"]) == (256 * 5000, listed["big"]["inode"])
    assert sum(chunk["uncompressed_size"] for chunk in big["chunks"]) == big["size"]
    assert big["chunks"][1]["file_offset"] == 0x10000
    at = ask(capsys, place, "-R", f"chunk {big['chunks'][0]['compressed_offset']}")
    assert ["/usr/big"] in [chunk["files"] for chunk in at]
    named = ask(capsys, place, "-R", f"icheck {ask(capsys, place, '-R', 'stat c')['inode']}")
    assert named["path"] == ["/c", "/dir/b"]
    assert ask(capsys, place, "-R", "stat usr/link")["target"] == "../etc/passwd"


def test_prefetch_table(images: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ["convert", "--source", f"oci:{images}:plain", "--target", f"oci:{tmp_path}/i:n"]
    assert main([*words, "--prefetch-patterns", "/usr/old", "/dir"]) == 0
    told = ask(capsys, f"oci:{tmp_path}/i:n", "-R", "prefetch")
    assert [row["path"] for row in told] == [["/usr/old"], ["/dir"]]


def test_a_conversation(images: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "cd usr\nls\nnonsense\ncd nowhere\nstat ../top\nexit\nls\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main(["inspect", f"oci:{images}:nydus", "-i"]) == 0
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines() if line.startswith(("[", "{"))]
    assert answers[-3] == {"directory": "/usr"}
    assert [row["name"] for row in answers[-2]] == ["big", "link", "more", "old"]
    assert answers[-1]["size"] == 3
    assert "no such request" in told.err
    assert "no such file" in told.err


def test_overview_knows_what_upper_layers_hide(images: Path, capsys: Captured) -> None:
    told = ask(capsys, f"oci:{images}:nydus", "--source", f"oci:{images}:plain", "--json")
    hidden = {row["path"]: (row["size"], row["by"], row["layer"]) for row in told["hidden"]}
    assert hidden == {"/usr/old": (9000, "replaced", 0), "/usr/gone": (7000, "deleted", 0)}
    assert told["layers"][0]["wasted"] == sum(size for size, _, _ in hidden.values())
    assert told["layers"][1]["wasted"] == 0
    assert told["largest"][0] == ["/usr/big", 256 * 5000]
    assert sum(blob["unused"] for blob in told["blobs"]) > 0
    assert main(["inspect", f"oci:{images}:nydus", "--source", f"oci:{images}:plain"]) == 0
    text = capsys.readouterr().out
    assert "/usr/gone  (deleted, layer 0)" in text
    assert "largest files:" in text


def write_trace(path: Path, place: str, work: Path, *names: bytes) -> None:
    """As fs/image/trace.py records it when just these files are read."""
    bootstrap, _ = pull(place, work)
    image = open_bootstrap(bootstrap.read_bytes(), place)
    heading = {"format": FORMAT, "source": place, "bootstrap": str(bootstrap),
               "manifest_digest": None, "blobs": [blob.blob_id for blob in image.blobs],
               "started": 1.5}  # fmt: skip
    records = [msgpack.packb(heading)]
    for name in names:
        nid = image.root
        for part in name.split(b"/"):
            found = image.lookup(nid, part)
            assert found is not None
            nid = found
        for extent in image.extents(nid, 0, image.inode(nid).size):
            touch = [5, extent.blob_index, extent.blob_offset, extent.length, nid]
            records.append(msgpack.packb(touch))
    path.write_bytes(b"".join(records))


def test_files_that_a_run_never_read(images: Path, tmp_path: Path, capsys: Captured) -> None:
    place, trace = f"oci:{images}:nydus", tmp_path / "trace"
    write_trace(trace, place, tmp_path, b"usr/old", b"top")
    told = ask(capsys, place, "--trace", str(trace), "--json")["trace"]
    assert (told["files_read"], told["size_read"]) == (2, 6)
    assert told["largest_never_read"][0] == ["/usr/big", 256 * 5000]
    words = ["convert", "--source", f"oci:{images}:plain", "--target", f"oci:{tmp_path}/i:other"]
    assert main([*words, "--compressor", "none"]) == 0
    assert main(["inspect", f"oci:{tmp_path}/i:other", "--trace", str(trace)]) == 2
    assert "trace of another image" in capsys.readouterr().err


def test_wrong_questions(images: Path, capsys: Captured) -> None:
    place = f"oci:{images}:nydus"
    assert main(["inspect", place, "-R", "blob"]) == 2
    assert main(["inspect", place, "-R", "stat nothing"]) == 5
    assert main(["inspect", place, "-R", "ls top"]) == 2
    assert main(["inspect", place, "-R", "chunk x"]) == 2
    assert main(["inspect", place, "-R", "icheck 999999"]) in (3, 5)
    assert main(["inspect", place, "-R", "stats", "--source", place]) == 2
    assert all(line.startswith("nydusify: ") for line in capsys.readouterr().err.splitlines())


# --- stat --------------------------------------------------------------------------------


def stat(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["stat", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_stat_of_one_image(images: Path, capsys: Captured) -> None:
    base = stat(capsys, f"oci:{images}:nydus")["base_image"]
    assert (base["dirs"], base["files"], base["symlinks"]) == (6, 11, 3)
    assert base["file_size"] == 256 * 5000 + 2 * 10_000 + 5000 + 4 + 3 + 3 + 4
    assert base["padding_size"] == base["uncomp_size"] - base["file_size"]
    assert base["chunks"] >= base["own_chunks"] > 0


def test_stat_of_images_that_share(images: Path, tmp_path: Path, capsys: Captured) -> None:
    bootstrap, _ = pull(f"oci:{images}:nydus", tmp_path)
    place = f"oci:{images}:nydus"
    told = stat(capsys, place, str(bootstrap), "--target", place)
    assert told["dedup_enabled"]
    assert told["target_image"]["own_chunks"] == 0
    assert told["target_image"]["ref_chunks"] == told["base_image"]["dedup_chunks"] > 0
    (row,) = told["dedup"]
    assert row["images"] == 2
    assert row["chunks"] == told["base_image"]["dedup_chunks"]
    assert row["comp_saved"] == told["base_image"]["dedup_comp_size"]
    told = stat(capsys, "--blob-dir", str(tmp_path))
    assert told["images"] == 1
    assert main(["stat"]) == 2


@pytest.mark.nydusd
@pytest.mark.samples
def test_stat_counts_as_nydus_image_does(samples: Path, tmp_path: Path, capsys: Captured) -> None:
    file = samples / "rafs-v6-2.2.boot"
    program = Path(os.environ.get("NYDUS_BIN", "/usr/bin")) / "nydus-image"
    subprocess.run([program, "stat", "-B", file, "-J", tmp_path / "told"], check=True)
    assert (
        stat(capsys, "-B", str(file))["base_image"]
        == json.loads((tmp_path / "told").read_text())["base_image"]
    )
