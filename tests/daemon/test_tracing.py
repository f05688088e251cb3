"""Traces of real mounts, prefetch told what to do, and mounts that need no server any more."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from fs.daemon import control
from fs.daemon.launch import MountOptions, mount_device
from fs.format.errors import Failure, FormatError, UsageError
from fs.image.trace import Paths, read_trace
from fs.image.tree import map_bootstrap
from tests.daemon.mounting import Place, nydus_fs
from tests.image.build import BuiltImage
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def _named(path: Path, image: BuiltImage) -> list[str]:
    paths = Paths(map_bootstrap(str(image.bootstrap)))
    return [name for touch in read_trace(str(path))[1] for name in paths.of(touch)]


def test_mount_records_what_is_read_first(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    here.mount(image, trace=str(trace), driver="fuse")
    (here.mountpoint / "hello").read_bytes()
    with (here.mountpoint / "big").open("rb") as big:
        os.pread(big.fileno(), 10, 0)
    (here.mountpoint / "hello").read_bytes()
    assert here.status()["trace"]["file"] == str(trace)
    here.unmount()
    names = _named(trace, image)
    assert names[0] == "/hello"
    assert names.count("/hello") == 1
    assert set(names) == {"/hello", "/big"}
    shown = nydus_fs("trace", "show", trace, "--json")
    assert json.loads(shown.stdout)["touches"][0]["files"] == ["/hello"]
    lines = nydus_fs("trace", "show", trace).stdout.splitlines()
    assert lines[0].endswith("touches")
    assert lines[1].endswith("/hello")


@pytest.mark.erofs
def test_kernel_reads_are_recorded_too(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    here.mount(image, trace=str(tmp_path / "trace"), driver="erofs")
    (here.mountpoint / "hello").read_bytes()
    here.unmount()
    assert "/hello" in _named(tmp_path / "trace", image)


def test_kernel_reads_less_ahead_while_it_is_traced(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    def readahead() -> str:
        device = mount_device(str(here.mountpoint))
        return Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text()

    here.mount(image, trace=str(tmp_path / "trace"), driver="fuse")
    assert readahead() == "128\n"
    os.kill(here.status()["worker_pid"], signal.SIGKILL)
    (here.mountpoint / "hello").read_bytes()
    directory, mountpoint = here.status()["state_dir"], str(here.mountpoint)
    control.call(directory, "trace", mountpoint=mountpoint)
    assert readahead() == "1024\n"
    control.call(directory, "trace", mountpoint=mountpoint, file=str(tmp_path / "later"))
    assert readahead() == "128\n"
    here.unmount()


def test_killed_worker_leaves_its_part(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    here.mount(image, trace=str(trace), driver="fuse")
    (here.mountpoint / "hello").read_bytes()
    eventually(lambda: len(read_trace(str(trace))[1]) == 1, "written")
    os.kill(here.status()["worker_pid"], signal.SIGKILL)
    (here.mountpoint / "big").read_bytes()
    here.unmount()
    assert _named(trace, image)[0] == "/hello"
    assert "/big" in _named(trace, image)


def test_trace_that_cannot_be_written_is_no_mount(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("important")
    with pytest.raises(FormatError, match="not a trace"):
        here.mount(image, trace=str(tmp_path / "notes"))
    assert not list(here.mountpoint.iterdir())
    assert (tmp_path / "notes").read_text() == "important"


def test_by_the_socket(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    here.mount(image, driver="fuse", prefetch="all")
    directory = here.status()["state_dir"]

    def ask(verb: str, **fields: object) -> dict[str, object]:
        return control.call(directory, verb, mountpoint=str(here.mountpoint), **fields)

    assert ask("trace", file=str(tmp_path / "trace"))["trace"]
    with pytest.raises(UsageError, match="recorded already"):
        ask("trace", file=str(tmp_path / "second"))
    (here.mountpoint / "hello").read_bytes()
    assert ask("trace") == {"trace": None}
    assert _named(tmp_path / "trace", image) == ["/hello"]
    eventually(lambda: here.status()["prefetch"]["state"] == "done", "all is here")
    assert here.status()["local"] is True
    ask("prefetch", do="pause")
    with pytest.raises(Failure, match="neither"):
        ask("prefetch", do="stop")
    here.unmount()


def test_all_then_no_server_at_all(image: BuiltImage, here: Place, tree: Path) -> None:
    """The blobs are taken away: what was fetched in the background is everything."""
    here.mount(image, prefetch="all", prefetch_bandwidth=100 << 20)
    eventually(lambda: here.status()["local"], "all is here")
    here.unmount()
    away = image.blobs.with_name("away")
    image.blobs.rename(away)
    try:
        image.blobs.mkdir()
        here.mount(image, prefetch="all")
        assert (here.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
        assert here.status()["requests"] == 0
        here.unmount()
    finally:
        image.blobs.rmdir()
        away.rename(image.blobs)


def test_old_callers_say_yes_or_no() -> None:
    modes = [MountOptions(prefetch=wish).prefetch_mode for wish in (True, False, "all")]
    assert modes == ["table", "none", "all"]
