"""A conversion killed while it packs a layer again: nothing is published, nothing is in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nydusify.cli import main
from tests.nydusify.test_convert import publish
from tests.nydusify.test_killed import is_tagged
from tests.nydusify.test_repacking import convert, layer_of_code, repacked

#: `nydusify`, killed as soon as so many pieces have been packed again, in the midst of the next.
KILLED = """
import os, signal, sys
from itertools import count
from nydusify.blobs import repacking
from nydusify.cli import main

pack, begun, last = repacking._packed, count(), int(sys.argv.pop(1))

def packed(*piece):
    if next(begun) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return pack(*piece)

repacking._packed = packed
sys.exit(main())
"""

#: Small ones make many pieces.
CHUNKS = ("--chunk-size", "65536")


def files(directory: Path) -> list[str]:
    """All below `directory`."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in found)


@pytest.mark.parametrize("pieces", [0, 9])
def test_killed_while_a_layer_is_packed_again(pieces: int, tmp_path: Path) -> None:
    """The next run, with the same cache of layers, makes what one makes that nothing disturbed."""
    publish(f"oci:{tmp_path}/in:s", [layer_of_code()])
    target, cache, work = f"oci:{tmp_path}/out:t", tmp_path / "cache", tmp_path / "work"
    words = ["convert", "--source", f"oci:{tmp_path}/in:s", "--target", target]
    words += ["--layer-cache", str(cache), "--work-dir", str(work), *CHUNKS]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(pieces), *words], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(name.endswith(".repacked") for name in files(work)), "killed at another moment"
    assert not is_tagged(target)
    assert not any("blobs/" in name for name in files(tmp_path / "out"))

    more = ("--work-dir", str(work), *CHUNKS)
    again = convert(tmp_path, "out", "--layer-cache", str(cache), *more)
    assert not again["layers"][0]["kept"], "half a layer was taken for a whole one"
    assert repacked(again) != [0]
    calm = tmp_path / "calm-cache"
    undisturbed = convert(tmp_path, "calm", "--layer-cache", str(calm), *CHUNKS)
    assert again["target_digest"] == undisturbed["target_digest"]
    assert files(tmp_path / "out") == files(tmp_path / "calm")
    assert files(cache) == files(calm)
    assert main(["check", "--target", target, "--source", f"oci:{tmp_path}/in:s"]) == 0
