"""What nydusify and lazyrun take, each in turn with the tool that it is set against."""

from __future__ import annotations

import json
import sysconfig
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import program, run_to_end
from benchmarks.micro.report import Row

_NOTHING = "int main(void) { return 0; }\n"


def conversion(work: Path, repeats: int) -> Row:
    """A layer of the Python that runs this, converted, against one core's `zstd -3` of it."""
    layer = work / "python.tar"
    with tarfile.open(layer, "w") as archive:
        archive.add(sysconfig.get_path("stdlib"), "python", filter=_without_packages)
    size = layer.stat().st_size
    ours, theirs = [], []
    for repeat in range(repeats):
        convert = [program("nydusify"), "convert", "--no-layer-cache", "--source", f"layer:{layer}",
                   "--target", f"oci:{work / f'converted{repeat}'}:nydus",
                   "--work-dir", str(work / "converting")]  # fmt: skip
        ours.append(size / _seconds(convert))
        pack = ["zstd", "-3", "--single-thread", "-q", "-f", str(layer), "-o", "/dev/null"]
        theirs.append(size / _seconds(pack))
    return Row("conversion, to zstd -3", "nydusify", "B/s", ours, theirs)


def _without_packages(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith(("/site-packages", "/dist-packages")) else entry


def runner_start(work: Path, repeats: int) -> Row:
    """A container of a program that does nothing, from a directory, against runc's."""
    bundle = work / "bundle"
    root = bundle / "rootfs"
    for name in ("proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    (work / "nothing.c").write_text(_NOTHING)
    run_to_end(["gcc", "-O2", "-static", "-o", str(root / "nothing"), str(work / "nothing.c")])
    run_to_end(["runc", "spec", "--bundle", str(bundle)])
    file = bundle / "config.json"
    configuration = json.loads(file.read_text())
    configuration["process"] |= {"terminal": False, "args": ["/nothing"]}
    file.write_text(json.dumps(configuration))
    ours, theirs = [], []
    lazyrun = [program("lazyrun"), "run", "--rm", "--root", str(work / "lazyrun"), "--rootfs",
               str(root), "/nothing"]  # fmt: skip
    runc = ["runc", "--root", str(work / "runc"), "run", "--bundle", str(bundle)]
    for repeat in range(max(repeats, 5) + 1):
        ours.append(1 / _seconds(lazyrun))
        theirs.append(1 / _seconds([*runc, f"micro{repeat}"]))
    # The first of each brings programs into the page cache.
    return Row("start of a container, to runc", "lazyrun", "starts/s", ours[1:], theirs[1:])


def _seconds(command: Sequence[str]) -> float:
    begun = time.monotonic()
    run_to_end(command)
    return time.monotonic() - begun
