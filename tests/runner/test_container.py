"""What a container's command sees, on a real root file system."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runner.capabilities import DEFAULT, mask
from tests.runner.conftest import Lazyrun

pytestmark = [pytest.mark.root, pytest.mark.overlay, pytest.mark.system]


def test_exit_codes_are_dockers(lazyrun: Lazyrun) -> None:
    assert lazyrun.run("sh", "-c", "exit 7").returncode == 7
    assert lazyrun.run(
        "sh", "-c", "kill -9 $$ & wait; exec sh -c 'sh -c \"kill -TERM $$\"; exit 3'"
    )
    assert lazyrun.run("--init", "--", "sh", "-c", "kill -USR1 $$; sleep 5").returncode == 138
    for code, command in ((127, "no-such"), (127, "/no/such"), (126, "/etc/passwd"), (126, "/etc")):
        done = lazyrun.run(command)
        assert done.returncode == code
        assert len(done.stderr.splitlines()) == 1
        assert command in done.stderr


def test_a_script_without_an_interpreter_is_not_found(lazyrun: Lazyrun, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert lazyrun.run("-v", f"{script}:/script", "--", "/script").returncode == 127


@pytest.mark.parametrize(
    "words",
    [
        ("-v", "name:/data", "--", "true"),
        ("-v", "/tmp:relative", "--", "true"),
        ("-v", "/tmp:/", "--", "true"),
        ("-v", "/tmp:/proc/sys", "--", "true"),
        ("-v", "/tmp:/x/../proc", "--", "true"),
        ("-v", "/tmp:/a:bad", "--", "true"),
        ("-u", "nobody-knows", "--", "true"),
        ("-u", "0:nogroup-knows", "--", "true"),
        ("-w", "relative", "--", "true"),
        ("--cap-add", "FLY", "--", "true"),
        ("--name", "no/name", "--", "true"),
        ("--no-such-flag", "--", "true"),
        ("--env-file", "/no/such", "--", "true"),
        (),
    ],
)
def test_failures_of_ours_are_125(lazyrun: Lazyrun, words: tuple[str, ...]) -> None:
    done = lazyrun.run(*words)
    assert done.returncode == 125
    assert done.stderr.startswith("lazyrun: ")
    assert done.stderr.count("\n") == 1


def test_environment(lazyrun: Lazyrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "taken over")
    monkeypatch.setenv("SECRET", "stays here")
    file = tmp_path / "env"
    file.write_text("# comment\n\nIN_FILE=a b=c\nFROM_HERE\n")
    flags = ["-e", "PLAIN=x=y", "-e", "FROM_HERE", "-e", "NOT_SET", "--env-file", str(file)]
    told = dict(line.split("=", 1) for line in lazyrun.output(*flags, "--", "env").splitlines())
    assert told == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": os.uname().nodename,
        "HOME": "/root",
        "PLAIN": "x=y",
        "IN_FILE": "a b=c",
        "FROM_HERE": "taken over",
    }


def test_the_user_is_taken_on(lazyrun: Lazyrun) -> None:
    script = "id -u; id -g; echo $HOME; touch /x"
    done = lazyrun.run("-u", "guest", "--", "sh", "-c", script)
    assert done.stdout.split()[:2] == ["405", "100"]
    assert done.stdout.split()[2] != "/root"
    assert "Permission denied" in done.stderr


def test_working_directory_is_made(lazyrun: Lazyrun) -> None:
    assert lazyrun.output("-w", "/not/yet/there", "--", "pwd") == "/not/yet/there\n"
    assert not (lazyrun.image / "not").exists()


def test_volumes(lazyrun: Lazyrun, tmp_path: Path) -> None:
    data, file, fresh = tmp_path / "data", tmp_path / "file", tmp_path / "fresh"
    data.mkdir()
    (data / "in").write_text("input")
    file.write_text("one file")
    flags = ["-v", f"{data}:/data", "-v", f"{data}:/ro:ro", "-v", f"{file}:/etc/issue"]
    flags += ["-v", f"{fresh}:/data/nested"]
    script = "cat /data/in /etc/issue; echo out > /data/out; touch /ro/x; touch /data/nested/y"
    done = lazyrun.run(*flags, "--", "sh", "-c", script)
    assert done.stdout == "inputone file"
    assert "Read-only file system" in done.stderr
    assert (data / "out").read_text() == "out\n"
    assert (fresh / "y").exists()
    assert not (lazyrun.image / "data").exists()


def test_tmpfs_and_shm(lazyrun: Lazyrun) -> None:
    flags = ["--tmpfs", "/scratch:size=1m,mode=700", "--shm-size", "2m"]
    table = lazyrun.output(*flags, "--", "cat", "/proc/mounts")
    assert "/scratch tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=700" in table
    assert "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=2048k" in table


def test_the_image_is_never_written(lazyrun: Lazyrun) -> None:
    before = (lazyrun.image / "etc/passwd").stat()
    script = "echo x >> /etc/passwd; rm -r /opt /srv; touch /new; cat /etc/passwd | tail -n 1"
    assert lazyrun.output("sh", "-c", script) == "x\n"
    assert (lazyrun.image / "etc/passwd").stat() == before
    assert (lazyrun.image / "opt").exists()


def test_read_only(lazyrun: Lazyrun) -> None:
    script = "touch /new; touch /tmp/ok && touch /dev/shm/ok && echo fine"
    done = lazyrun.run("--read-only", "--tmpfs", "/tmp", "--", "sh", "-c", script)
    assert done.stdout == "fine\n"
    assert "Read-only file system" in done.stderr


def test_nothing_of_the_host_is_visible(lazyrun: Lazyrun) -> None:
    script = "ls /proc | grep -c '^[0-9]'; cut -d' ' -f2 /proc/self/mounts | sort | uniq -d"
    assert lazyrun.output("sh", "-c", script) == "3\n"  # sh, ls, grep; nothing mounted over
    table = lazyrun.output("cat", "/proc/self/mountinfo")
    points = [line.split()[4] for line in table.splitlines()]
    assert points[0] == "/"
    assert not [point for point in points if point.startswith(("/tmp", "/work", "/mnt"))]


def test_namespaces(lazyrun: Lazyrun) -> None:
    names = ("mnt", "pid", "uts", "ipc", "net")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    inside = lazyrun.output("sh", "-c", script).split()
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    same = [name for name, a, b in zip(names, inside, outside, strict=True) if a == b]
    assert same == ["net"]
    inside = lazyrun.output("--network", "none", "--", "sh", "-c", script).split()
    assert not set(inside) & set(outside)


def test_network_none(lazyrun: Lazyrun) -> None:
    script = "ip -o link | cut -d: -f2; ip -o addr | grep -c 127.0.0.1; ping -c1 -W1 127.0.0.1"
    told = lazyrun.output("--network", "none", "--", "sh", "-c", script).splitlines()
    assert told[:2] == [" lo", "1"]
    assert "0% packet loss" in " ".join(told)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        connect = f"nc -w 1 127.0.0.1 {server.getsockname()[1]}"
        assert lazyrun.run("--network", "none", "--", "sh", "-c", connect).returncode != 0
        assert lazyrun.run("sh", "-c", connect + " -e true").returncode == 0


def test_host_names_and_addresses(lazyrun: Lazyrun) -> None:
    script = "hostname; cat /etc/hostname; cat /etc/hosts; cat /etc/resolv.conf"
    flags = ["--hostname", "box", "--add-host", "peer:10.0.0.7", "--network", "none"]
    told = lazyrun.output(*flags, "--", "sh", "-c", script).splitlines()
    assert told[:3] == ["box", "box", "127.0.0.1\tlocalhost"]
    assert told[-1] == "10.0.0.7\tpeer"
    on_host = lazyrun.output("sh", "-c", script)
    assert on_host.startswith(os.uname().nodename)
    assert Path("/etc/resolv.conf").read_text() in on_host
    assert os.uname().nodename != "box"


def test_capabilities(lazyrun: Lazyrun) -> None:
    def sets(*flags: str) -> dict[str, int]:
        told = lazyrun.output(*flags, "--", "grep", "Cap", "/proc/self/status")
        return {line[:6]: int(line[7:], 16) for line in told.splitlines()}

    default = mask(DEFAULT)
    assert default == 0xA80425FB  # docker's
    full = {"CapPrm": default, "CapEff": default, "CapBnd": default}
    assert sets() == {"CapInh": 0, "CapAmb": 0, **full}
    user = sets("-u", "1000")
    assert user == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": default, "CapAmb": 0}
    assert set(sets("--cap-drop", "ALL").values()) == {0}
    assert sets("--cap-drop", "ALL", "--cap-add", "CHOWN")["CapEff"] == 1
    assert sets("--cap-add", "net_admin")["CapEff"] == default | 1 << 12


def test_no_new_privileges(lazyrun: Lazyrun) -> None:
    status = ["grep", "NoNewPrivs", "/proc/self/status"]
    assert lazyrun.output(*status).split() == ["NoNewPrivs:", "0"]
    flag = ["--security-opt", "no-new-privileges"]
    assert lazyrun.output(*flag, "--", *status).split() == ["NoNewPrivs:", "1"]


def test_proc_and_sys_are_masked(lazyrun: Lazyrun) -> None:
    script = (
        "wc -c < /proc/kcore; wc -c < /proc/keys; wc -c < /proc/timer_list; ls -A /sys/firmware;"
        "ls -A /proc/acpi; echo x > /proc/sys/kernel/hostname; echo b > /proc/sysrq-trigger;"
        "mkdir /sys/fs/x; echo end"
    )
    done = lazyrun.run("sh", "-c", script + " 2>&1")
    lines = [line for line in done.stdout.splitlines() if "kcore" not in line]
    assert lines[-1] == "end"
    assert lines[:-1].count("0") >= 2
    assert sum("Read-only file system" in line for line in lines + done.stderr.splitlines()) >= 2
    assert Path("/proc/sys/kernel/hostname").read_text().strip() == os.uname().nodename


def test_devices(lazyrun: Lazyrun) -> None:
    script = (
        "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 1 /dev/urandom | wc -c;"
        "ls /dev; readlink /dev/stdin; chmod 600 /dev/null; mknod /dev/sda b 8 0;"
        "mknod /sda b 254 0; head -c 1 /sda; mknod /tmp/null c 1 3; echo x > /tmp/null;"
        "mknod /dev/mem c 1 1; head -c 1 /dev/mem"
    )
    done = lazyrun.run("sh", "-c", script)
    names = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    expected = ["00 00 00 00", "1", *names.split(), "/proc/self/fd/0"]
    assert [line.strip() for line in done.stdout.splitlines()] == expected
    refusals = [line for line in done.stderr.splitlines() if "ermission denied" in line]
    assert len(refusals) == 3  # made, where tar may want them, but of no use
    assert stat.S_IMODE(Path("/dev/null").stat().st_mode) == 0o666


def test_a_device_that_is_given(lazyrun: Lazyrun) -> None:
    assert lazyrun.output("--device", "/dev/zero:/dev/nil", "--", "head", "-c1", "/dev/nil") == "\0"


def test_standard_streams(lazyrun: Lazyrun) -> None:
    assert lazyrun.output("-i", "--", "cat", stdin="passed on") == "passed on"
    assert lazyrun.output("cat", stdin="not passed on") == ""
    done = lazyrun.run("sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_no_descriptor_is_inherited(lazyrun: Lazyrun) -> None:
    """A directory of the host that a caller left open would be a way out."""
    directory = os.open("/", os.O_RDONLY)
    os.set_inheritable(directory, True)
    try:
        done = subprocess.run(
            lazyrun.command("ls", "/proc/self/fd"), capture_output=True, close_fds=False, text=True
        )
    finally:
        os.close(directory)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls's own


def test_init_reaps_orphans(lazyrun: Lazyrun) -> None:
    script = "(sleep 0.05 &); (sleep 0.05 &); sleep 0.4; ps -o stat,comm | grep -c '^Z'; exit 5"
    done = lazyrun.run("--init", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (5, "0\n")
    without = lazyrun.run("--", "sh", "-c", "exec sleep 0.1")
    assert without.returncode == 0


def test_init_keeps_the_hosts_environment_to_itself(
    lazyrun: Lazyrun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of-the-host")
    done = lazyrun.run("--init", "--", "sh", "-c", "cat /proc/1/environ; ls -l /proc/1/exe; true")
    assert done.stdout.count("of-the-host") == 0
    assert "Permission denied" in done.stderr


def imported(program: str) -> str:
    """What a light start of Python prints for `program`, with this repository importable."""
    repository = Path(__file__).parents[2]
    program = f"import sys; sys.path.insert(0, {str(repository)!r}); {program}"
    command = [sys.executable, "-I", "-S", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_first_start_imports_next_to_nothing() -> None:
    program = "from runner import cli, protect; print('argparse' in sys.modules)"
    assert imported(program) == "False\n"


def test_starting_cold_imports_little() -> None:
    program = (
        "from runner import cli, protect, verbs; "
        "heavy = {'trio', 'requests', 'pyfuse3', 'asyncio', 'logging', 'dataclasses', 'inspect',"
        " 'urllib.request', 'http.client', 'subprocess', 'socket', 'tarfile', 'zstandard', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert imported(program) == "[]\n"
