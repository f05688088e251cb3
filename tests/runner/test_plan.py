"""What is decided before anything is done: commands, environments, users, mounts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fs.format.errors import FormatError, NotFoundError, UsageError
from fs.mounts import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY
from runner import capabilities, cli, mountplan, run, settings
from runner.settings import ImageSettings, image_settings
from runner.signals import Interrupted
from runner.users import User, find_user

IMAGE = ImageSettings(("entry", "-x"), ("cmd", "arg"), ("PATH=/bin", "A=1"), "/work", "me")


@pytest.mark.parametrize(
    ("entrypoint", "command", "words"),
    [
        (None, (), ("entry", "-x", "cmd", "arg")),
        (None, ("other",), ("entry", "-x", "other")),
        ("new", (), ("new",)),
        ("new", ("a", "b"), ("new", "a", "b")),
        ("", ("a", "b"), ("a", "b")),
    ],
)
def test_command_line(
    entrypoint: str | None, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert settings.command_line(IMAGE, entrypoint, command) == words


def test_nothing_to_run() -> None:
    with pytest.raises(UsageError, match="no command"):
        settings.command_line(IMAGE, "", ())
    with pytest.raises(UsageError, match="no command"):
        settings.command_line(ImageSettings(), None, ())


def test_environment_later_ones_win() -> None:
    given = ["A=2", "B=x=y", "OUTER", "MISSING", "C="]
    merged = settings.environment(
        IMAGE, given, hostname="h", tty=True, outer={"OUTER": "o", "SECRET": "s"}
    )
    assert merged == {
        "PATH": "/bin",
        "HOSTNAME": "h",
        "TERM": "xterm",
        "A": "2",
        "B": "x=y",
        "OUTER": "o",
        "C": "",
    }
    with pytest.raises(UsageError):
        settings.environment(IMAGE, ["=x"], hostname="h", tty=False, outer={})


def test_working_directory() -> None:
    assert settings.working_directory(IMAGE, None) == "/work"
    assert settings.working_directory(IMAGE, "/a/../b/") == "/b"
    assert settings.working_directory(ImageSettings(workdir="rel"), None) == "/rel"
    assert settings.working_directory(ImageSettings(workdir="../../x"), None) == "/x"
    assert settings.working_directory(ImageSettings(), None) == "/"


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"Cmd": {"a": 1}},
        {"Cmd": [1]},
        {"Env": ["A=\0"]},
        {"User": 5},
        {"WorkingDir": ["/"]},
        {"Volumes": ["/x"]},
        {"Entrypoint": ["a\0b"]},
    ],
)
def test_malformed_configurations(config: object) -> None:
    with pytest.raises(FormatError, match="image"):
        image_settings({"config": config or [1]}, "image")


def test_sparse_configurations() -> None:
    for document in (None, {}, {"config": None}, {"config": {"Cmd": None, "Env": None}}):
        assert image_settings(document, "image") == ImageSettings()
    assert image_settings({"config": {"Cmd": "a b"}}, "image").cmd == ("/bin/sh", "-c", "a b")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n# not a line\nbroken\nbad:x:no:0::/:\n"
        "me:x:1000:100::/home/me:/bin/sh\n1000:x:7:8::/seven:\nnohome:x:5:6:::\n"
    )
    (tmp_path / "etc/group").write_text("users:x:100:\nwheel:x:10:root,me\nwhell:x:11:me\nx:x\n")
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (10,), "/root")),
        ("root", User(0, 0, (10,), "/root")),
        ("me", User(1000, 100, (10, 11), "/home/me")),
        ("me:wheel", User(1000, 10, (), "/home/me")),
        ("me:77", User(1000, 77, (), "/home/me")),
        ("1000", User(7, 8, (), "/seven")),  # a name before a number, as in docker
        ("5", User(5, 6, (), "/")),
        ("4242", User(4242, 0, (), "/")),
        ("4242:users", User(4242, 100, (), "/")),
    ],
)
def test_users(root: int, text: str, user: User) -> None:
    assert find_user(root, text) == user


@pytest.mark.parametrize("text", ["nobody", "me:nogroup", "bad", "-1", "1.5"])
def test_users_that_are_not_there(root: int, text: str) -> None:
    with pytest.raises(NotFoundError):
        find_user(root, text)
    with pytest.raises(UsageError, match="range"):
        find_user(root, "4294967295")


def test_without_a_passwd_file_numbers_still_do(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        os.mkfifo(tmp_path / "etc")  # reading it would block for ever
        assert find_user(descriptor, "5:6") == User(5, 6, (), "/")
        (tmp_path / "etc").unlink()
        (tmp_path / "etc").mkdir()
        os.mkfifo(tmp_path / "etc/passwd")
        assert find_user(descriptor, "") == User()
    finally:
        os.close(descriptor)


def test_plan_is_sorted_and_ours_can_be_replaced(tmp_path: Path) -> None:
    given = [
        mountplan.volume(f"{tmp_path}:/data/deep/er"),
        mountplan.volume(f"{tmp_path}:/data:ro"),
        mountplan.tmpfs("/dev/shm:size=5m"),
    ]
    steps = mountplan.plan(given, {"/etc/hosts": "/made/hosts"})
    targets = [step.target for step in steps]
    assert len(set(targets)) == len(targets)
    for inner, outer in (("/data/deep/er", "/data"), ("/dev/pts", "/dev")):
        assert targets.index(inner) > targets.index(outer)
    (shm,) = [step for step in steps if step.target == "/dev/shm"]
    assert ("size", "5m") in shm.options
    (data,) = [step for step in steps if step.target == "/data"]
    assert data.attributes == MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV
    with pytest.raises(UsageError, match="twice"):
        mountplan.plan([*given, given[0]], {})


def test_everything_writable_is_nodev(tmp_path: Path) -> None:
    given = [mountplan.volume(f"{tmp_path}:/v:exec,suid"), mountplan.tmpfs("/t:exec,suid")]
    for step in mountplan.plan(given, {"/etc/hosts": "/made/hosts"}):
        # /dev becomes nodev when its nodes are there; devpts must not be.
        assert step.attributes & MOUNT_ATTR_NODEV or step.target in ("/dev", "/dev/pts"), step


def test_volume_options(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert mountplan.volume(f"{file}:/x").is_file
    step = mountplan.volume(f"{tmp_path}:/x//y/../z/:ro,noexec,nosuid")
    assert (step.target, step.source) == ("/x/z", str(tmp_path))
    flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    assert step.attributes == flags
    for wrong in ("/a", "/a:", "name:/b", "/a:b", "/a:/", "/a:/proc", "/a:/b/../proc/1", "/a:/b:z"):
        with pytest.raises(UsageError):
            mountplan.volume(wrong)
    with pytest.raises(UsageError, match="below /dev"):
        mountplan.device("/etc/passwd")


def test_capability_arithmetic() -> None:
    default = capabilities.mask(capabilities.DEFAULT)
    assert capabilities.chosen([], []) == default
    assert capabilities.chosen(["ALL"], []) == (1 << 41) - 1
    assert capabilities.chosen([], ["all"]) == 0
    assert capabilities.chosen(["cap_chown"], ["ALL"]) == 1
    assert capabilities.chosen(["ALL"], ["CHOWN"]) == (1 << 41) - 2
    assert capabilities.chosen([], ["CHOWN"]) == default - 1


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "examples:" in told
    assert cli.main(["ps", "--no-such-flag"]) == 2
    assert cli.main([]) == 2


def test_a_signal_that_python_drops_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a handler raises inside a callback of the interpreter's goes nowhere."""

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    dropped: list[type[BaseException] | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda event: dropped.append(event.exc_type))
    with run._interruptible() as caught:
        Dying()
    assert dropped == [Interrupted]
    assert caught == [signal.SIGTERM]
