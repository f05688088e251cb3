"""Places, names and options that cannot be right: one line, the right code, and nothing changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.e2e.commands import Done, assert_refused, call
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.system]

USAGE, FORMAT, NOT_FOUND, ACCESS, UNREACHABLE, STORAGE = 2, 3, 5, 6, 7, 8


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file and an empty directory to be mistaken for others."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").mkdir()
    return tmp_path


def convert(source: object, target: object, *options: object) -> Done:
    return call("nydusify", "convert", "--source", source, "--target", target, *options)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", USAGE),
        ("dir:", USAGE),
        ("layer:", USAGE),
        ("oci:", USAGE),
        ("oci:empty", NOT_FOUND),
        ("oci:file", NOT_FOUND),
        ("oci:no\nsuch", NOT_FOUND),
        ("oci:\x1b[2Jx", NOT_FOUND),
        ("oci:\udcff", NOT_FOUND),
        ("oci:" + "x" * 5000, NOT_FOUND),
        ("dir:file", NOT_FOUND),
        ("dir:absent", NOT_FOUND),
        ("dir:" + "x" * 5000, NOT_FOUND),
        ("layer:empty", NOT_FOUND),
        ("layer:file", FORMAT),
        ("layer:" + "x" * 5000, NOT_FOUND),
        ("layer:/proc/self/mem", STORAGE),
        ("docker-archive:file", FORMAT),
        ("docker-archive:empty", STORAGE),
    ],
)
def test_source(place: Path, source: str, code: int) -> None:
    assert_refused(convert(source, "oci:target"), code)
    assert sorted(os.listdir()) == ["empty", "file"]


@pytest.mark.parametrize("file", ["", "empty", "file", "absent"])
def test_source_archive(place: Path, file: str) -> None:
    done = call("nydusify", "convert", "--source-archive", file, "--target", "oci:target")
    assert_refused(done, FORMAT if file in ("", "file") else NOT_FOUND)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("", USAGE),
        ("oci:", USAGE),
        ("oci:file:x", NOT_FOUND),
        ("docker-archive:absent/x.tar", NOT_FOUND),
        ("docker-archive:empty", USAGE),
        ("docker-archive:special", USAGE),
    ],
)
def test_target(place: Path, plain_layout: Path, target: str, code: int) -> None:
    os.mkfifo("special")
    assert_refused(convert(f"oci:{plain_layout}:plain", target), code)
    assert stat.S_ISFIFO(os.stat("special").st_mode)
    assert sorted(os.listdir()) == ["empty", "file", "special"]
    assert os.listdir("empty") == []


@pytest.mark.parametrize(
    "options",
    [("--bogus",), ("--threads", "x"), ("--platform", ""), ("--output-json", "absent/x"),
     ("--output-json", "empty"), ("--target-suffix", "x")],
)  # fmt: skip
def test_options_of_convert(place: Path, plain_layout: Path, options: tuple[str, ...]) -> None:
    assert_refused(convert(f"oci:{plain_layout}:plain", "oci:target", *options), USAGE)
    assert not Path("target").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("mount", "image", ""), USAGE),
        (("mount", "image", "file"), NOT_FOUND),
        (("mount", "image", "a\nb"), NOT_FOUND),
        (("mount", "oci:", "empty"), USAGE),
        (("mount", "oci:" + "x" * 5000, "empty"), NOT_FOUND),
        (("mount", "127.0.0.1:1/a:b", "empty"), UNREACHABLE),
        (("mount", "image", "empty", "--outage-deadline", "nan"), USAGE),
        (("mount", "image", "empty", "--state-root", "file"), NOT_FOUND),
        (("mount", "image", "empty", "--bogus"), USAGE),
        (("umount", ""), USAGE),
        (("status", "--state-root", "file"), NOT_FOUND),
        (("unknown",), USAGE),
    ],
)
def test_nydus_fs(place: Path, words: tuple[str, ...], code: int) -> None:
    state = () if "--state-root" in words or words[0] == "unknown" else ("--state-root", "state")
    assert_refused(call("nydus-fs", *words, *state), code)
    # A daemon that was started for nothing ends by itself a moment after its answer.
    eventually(lambda: left_below(Path("state")) == [], "nothing but the log")


def left_below(state: Path) -> list[Path]:
    return [path for path in state.glob("*/*") if path.name != "daemon.log"]


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("where", ["--cache-dir", "--state-root"])
def test_directories_that_others_can_write(place: Path, nydus_layout: Path, where: str) -> None:
    """What lies in them is believed, so they have to be ours."""
    for shared in ("shared", "shared/bootstraps", "shared/blobs"):
        Path(shared).mkdir()
        os.chmod(shared, 0o777)
    shared_state: tuple[str, ...] = ("--state-root", "state")
    if where == "--state-root":
        shared_state = ()
    words = ("mount", f"oci:{nydus_layout}:nydus", "empty", where, "shared", *shared_state)
    assert_refused(call("nydus-fs", *words), ACCESS, "other users")
    assert not Path("empty").is_mount()


@pytest.mark.root
@pytest.mark.parametrize(
    "words", [("", "true"), ("oci:\udcff", "true"), ("--network", "x", "y"), ()]
)
def test_lazyrun(place: Path, words: tuple[str, ...]) -> None:
    assert_refused(call("lazyrun", "run", "--rm", "--root", "root", *words), 125)
