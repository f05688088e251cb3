"""From start to end: signals, terminals, names, and what is left when somebody is killed."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from fs.registry.store import open_reader
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.terminal import read_until
from tests.parts.waiting import PATIENCE, eventually
from tests.runner.conftest import LAZYRUN, Lazyrun

pytestmark = [pytest.mark.root, pytest.mark.overlay, pytest.mark.system]


def started(lazyrun: Lazyrun, *words: str, image: str | None = None) -> subprocess.Popen[str]:
    """A container that has printed its first line, "ready"."""
    process = subprocess.Popen(
        lazyrun.command(*words, image=image), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], seconds: float = 20) -> int:
    process.communicate(timeout=seconds)
    return process.returncode


def running_state(lazyrun: Lazyrun) -> dict[str, int]:
    """The state of the one container, once it has its process."""
    (file,) = lazyrun.root.glob("containers/*/state.json")
    eventually(lambda: "pid" in json.loads(file.read_text()), "it has its process")
    state = json.loads(file.read_text())
    assert isinstance(state, dict)
    return state


SLEEPER = ("sh", "-c", "echo ready; sleep 1000 & wait")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(lazyrun: Lazyrun, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.02; done"
    process = started(lazyrun, "sh", "-c", script)
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE)[0] == f"got {name}\n"
    assert process.returncode == 9


def test_process_1_without_a_handler_ignores_signals_unless_there_is_an_init(
    lazyrun: Lazyrun,
) -> None:
    process = started(lazyrun, "--init", "--", *SLEEPER)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    process = started(lazyrun, *SLEEPER)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        ended(process, 0.3)
    assert lazyrun.verb("rm", "-f", _only_container(lazyrun)["id"]).returncode == 0
    assert ended(process) == 137


def _only_container(lazyrun: Lazyrun) -> dict[str, str]:
    (container,) = json.loads(lazyrun.verb("ps", "--json").stdout)
    assert isinstance(container, dict)
    return container


def test_a_killed_lazyrun_takes_its_container_along_and_the_next_clears_up(
    lazyrun: Lazyrun,
) -> None:
    process = started(lazyrun, *SLEEPER)
    state = running_state(lazyrun)
    process.kill()
    ended(process)
    eventually(lambda: not Path(f"/proc/{state['pid']}").exists(), "its process is gone")
    assert lazyrun.leftovers() != []
    assert json.loads(lazyrun.verb("ps", "-a", "--json").stdout)[0]["exit_code"] == 137
    assert lazyrun.output("echo", "next") == "next\n"
    assert lazyrun.leftovers() == []


def test_a_killed_lazyrun_whose_container_survived(lazyrun: Lazyrun) -> None:
    """A set-user-ID program as process 1 sheds the tie to its parent; the next run kills it."""
    program = lazyrun.image / "bin/busybox-shed"
    program.write_bytes((lazyrun.image / "bin/busybox").read_bytes())
    os.chown(program, 1, 1)
    program.chmod(0o6755)
    try:
        script = "echo ready; exec /bin/busybox-shed sh -c 'sleep 1000 & wait'"
        process = started(lazyrun, "-u", "1000", "--", "sh", "-c", script)
        state = running_state(lazyrun)
        file = Path(f"/proc/{state['pid']}/cmdline")
        eventually(lambda: b"shed" in file.read_bytes(), "it is the other program")
        process.kill()
        process.wait()
        assert Path(f"/proc/{state['pid']}").exists()
        lazyrun.verb("prune")
        ended(process)
        eventually(lambda: not Path(f"/proc/{state['pid']}").exists(), "its process is gone")
    finally:
        program.unlink()


@pytest.mark.parametrize("moment", [0.02, 0.06, 0.1, 0.14, 0.18, 0.22, 0.3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_at_any_moment_nothing_is_left(
    lazyrun: Lazyrun, moment: float, number: signal.Signals
) -> None:
    # A session in the background of a script has its children ignore SIGINT.
    heeding = ["env", "--default-signal=INT,TERM"]
    process = subprocess.Popen([*heeding, *lazyrun.command("--init", "--", "sleep", "1000")])
    time.sleep(moment)
    process.send_signal(number)
    code = process.wait(PATIENCE)
    # Before Python runs our handler, the signal ends it as it ends any program.
    assert code in (128 + number, -number, 1, 130)


def test_a_mount_that_fails_half_way_leaves_nothing(lazyrun: Lazyrun, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = lazyrun.run("-v", f"{file}:/etc/passwd/below", "--", "true")
    assert done.returncode == 125
    assert "/etc/passwd/below" in done.stderr
    done = lazyrun.run("--tmpfs", "/x:size=nonsense", "--", "true")
    assert (done.returncode, "size" in done.stderr) == (125, True)


def test_names_and_what_is_kept(lazyrun: Lazyrun) -> None:
    keep = lazyrun.command("--name", "box", "--", "sh", "-c", "echo x > /kept")
    keep.remove("--rm")
    assert subprocess.run(keep).returncode == 0
    again = subprocess.run(keep, capture_output=True, text=True)
    assert (again.returncode, "in use" in again.stderr) == (125, True)
    (told,) = json.loads(lazyrun.verb("ps", "-a", "--json").stdout)
    assert (told["name"], told["status"], told["exit_code"]) == ("box", "exited", 0)
    assert json.loads(lazyrun.verb("ps", "--json").stdout) == []
    assert "box" in lazyrun.verb("ps", "-a").stdout
    (kept,) = lazyrun.root.glob("store/snapshots/*/fs/kept")
    assert kept.read_text() == "x\n"
    assert not [point for point in lazyrun.leftovers() if point.endswith("/fs")]
    assert lazyrun.verb("rm", "box").returncode == 0
    assert lazyrun.verb("rm", "box").returncode == 5


def test_a_running_container_is_not_removed_unless_forced(lazyrun: Lazyrun) -> None:
    process = started(lazyrun, "--name", "busy", "--", *SLEEPER)
    refused = lazyrun.verb("rm", "busy")
    assert (refused.returncode, "is running" in refused.stderr) == (2, True)
    assert lazyrun.verb("rm", "-f", "busy").returncode == 0
    assert ended(process) == 137


def test_many_at_once(lazyrun: Lazyrun) -> None:
    processes = [subprocess.Popen(lazyrun.command("sh", "-c", f"exit {code}")) for code in range(6)]
    assert [process.wait(PATIENCE) for process in processes] == list(range(6))


def test_a_terminal(lazyrun: Lazyrun) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(slave)
    script = (
        "tty; stty size; test -c /dev/console && echo $TERM; trap 'stty size' WINCH; sh; exit 4"
    )
    process = subprocess.Popen(
        lazyrun.command("-i", "-t", "--", "sh", "-c", script),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    shown = read_until(master, rb"# ")
    assert b"/dev/pts/0\r\n33 101\r\nxterm\r\n" in shown
    os.write(master, b"echo $((6*7))\n")
    read_until(master, rb"\r\n42\r\n.*# ")
    # Who says that it is ready is who has the terminal: the shell gave it away before.
    os.write(master, b"sh -c 'echo re\"\"ady; exec sleep 1000'\n")
    read_until(master, rb"ready\r\n")
    os.write(master, b"\x03")  # ends the sleep, not lazyrun and not the shell
    read_until(master, rb"# ")  # what is typed before might be dropped with the ^C
    os.write(master, b"echo st''ill here\n")
    read_until(master, rb"still here")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 55, 0, 0))
    process.send_signal(signal.SIGWINCH)
    os.write(master, b"until stty size | grep '44 5[5]'; do sleep 0.1; done\n")
    read_until(master, rb"44 55")
    os.write(master, b"exit\n")
    assert process.wait(PATIENCE) == 4
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_a_terminal_for_output_only(lazyrun: Lazyrun) -> None:
    done = lazyrun.run("-t", "--", "sh", "-c", "test -t 1 && seq 1 3000; exit 3")
    assert done.returncode == 3
    assert done.stdout.split() == [str(number) for number in range(1, 3001)]
    refused = lazyrun.run("-i", "-t", "--", "true")
    assert (refused.returncode, "not a terminal" in refused.stderr) == (125, True)


def test_a_plain_image_is_pulled_once_and_says_so(lazyrun: Lazyrun, tmp_path: Path) -> None:
    layer = subprocess.run(
        ["tar", "-C", lazyrun.image, "-cf", "-", "."], check=True, stdout=subprocess.PIPE
    ).stdout
    config = {
        "Entrypoint": ["/bin/echo", "entry"],
        "Cmd": ["from", "image"],
        "Env": ["PATH=/bin", "A=of the image"],
        "WorkingDir": "/srv/app",
        "User": "guest",
    }
    image = f"oci:{tmp_path}/layout:tag"
    write_plain_image(image, [layer, LayerTar().add("etc/.wh.motd").tar()], config)
    done = lazyrun.run(image=image)
    assert (done.returncode, done.stdout) == (0, "entry from image\n")
    assert "not a Nydus image" in done.stderr
    assert "2 of 2 layers missing" in done.stderr
    done = lazyrun.run("--", "other", image=image)
    assert done.stdout == "entry other\n"
    assert "0 of 2 layers missing" in done.stderr
    script = 'echo "$A $B $(pwd) $(/usr/bin/id -u)"; ls /etc/motd'
    flags = ["--entrypoint", "/bin/sh", "-e", "B=of ours", "-u", "0"]
    done = lazyrun.run(*flags, "--", "-c", script, image=image)
    assert done.stdout == "of the image of ours /srv/app 0\n"
    assert "No such file" in done.stderr
    assert lazyrun.run("--entrypoint", "", "--", image=image).returncode == 125
    assert "2 layers removed" in lazyrun.verb("prune").stderr


@pytest.mark.fuse
def test_a_nydus_image_is_mounted_while_its_container_runs(
    lazyrun: Lazyrun, tmp_path: Path
) -> None:
    layer = subprocess.run(
        ["tar", "-C", lazyrun.image, "-cf", "-", "."], check=True, stdout=subprocess.PIPE
    ).stdout
    plain, image = f"oci:{tmp_path}/layout:plain", f"oci:{tmp_path}/layout:nydus"
    write_plain_image(plain, [layer], {"Cmd": ["cat", "/etc/profile"]})
    convert = [str(LAZYRUN.with_name("nydusify")), "convert", "--source", plain, "--target", image]
    subprocess.run(convert, check=True, capture_output=True)
    assert open_reader(image).resolve(nydus=True).manifest.layers
    expected = (lazyrun.image / "etc/profile").read_text()
    assert lazyrun.output(image=image) == expected
    process = started(lazyrun, "--init", "--", *SLEEPER, image=image)
    assert any(point.endswith("/fs") for point in lazyrun.leftovers())
    process.terminate()
    assert ended(process) == 128 + signal.SIGTERM
    assert lazyrun.leftovers() == []
    process = started(lazyrun, *SLEEPER, image=image)
    process.kill()
    ended(process)
    assert lazyrun.output(image=image) == expected  # and clears up after the killed one
