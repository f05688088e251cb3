"""A container of ours beside one of runc, on one tree, with docker's defaults written out for runc.

Everything that a program can see of its container is compared. What differs is
listed here with the reason, and must go on to differ as listed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.parts.waiting import PATIENCE
from tests.runner.conftest import Lazyrun

pytestmark = [
    pytest.mark.root,
    pytest.mark.overlay,
    pytest.mark.system,
    pytest.mark.containerd,  # which needs runc
]

CAPABILITIES = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
]  # fmt: skip
MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
    "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
QUIET = ["nosuid", "noexec", "nodev"]
MOUNTS = [
    ("/proc", "proc", QUIET),
    ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts",
     ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/sys", "sysfs", [*QUIET, "ro"]),
    ("/dev/mqueue", "mqueue", QUIET),
    ("/dev/shm", "tmpfs", [*QUIET, "mode=1777", "size=67108864"]),
]  # fmt: skip
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")

#: What a program sees otherwise than under runc, and why that is so.
DIFFERENCES = {
    "mount /": "the writable layer is an overlay; devices in an image do not work",
    "mount /dev": "nothing in /dev needs to be executed",
    **{
        f"mount /dev/{name}": "each device is a mount of its own, so that all else can be nodev"
        for name in DEVICES
    },
    "/dev/core": "as docker has it, beyond what runc makes by itself",
}
PROBE = r"""
env | sed 's/^/env /'
echo "cwd $(pwd)"
echo "id $(id -u) $(id -g) $(id -G)"
echo "umask $(umask)"
echo "pid $$"
echo "hostname $(hostname)"
grep -E '^(Cap|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status | tr -d ':' | tr '\t' ' '
for file in /dev/* /dev/.[a-z]*; do
    [ -L $file ] && echo "$file -> $(readlink $file)"
    [ -L $file ] || { [ -e $file ] && stat -c '%n %F %a %u:%g %t,%T' $file; }
done
for n in /proc/$$/fd/*; do echo "fd ${n##*/}"; done
for path in $MASKS; do
    [ -e $path ] && echo "masked $path $(cat $path 2>/dev/null | wc -c) $(ls -A $path | wc -l)"
done
for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum /new; do
    (: >> $path) 2>/dev/null && echo "writable $path" || echo "refused $path"
done
rm -f /new
mount -t tmpfs none /mnt 2>/dev/null && echo mounted
echo "files $(ulimit -n) processes $(ulimit -u) core $(ulimit -c)"
echo "oom $(cat /proc/self/oom_score_adj)"
while read line; do echo "mountinfo $line"; done < /proc/self/mountinfo
"""


class Case(NamedTuple):
    """Options of lazyrun, and what they change in runc's specification."""

    options: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    cwd: str = "/"
    home: str = "/root"
    capabilities: Sequence[str] = CAPABILITIES
    read_only: bool = False
    no_new_privileges: bool = False


def groups_of(image: Path, user: str) -> tuple[int, ...]:
    lines = (image / "etc/group").read_text().splitlines()
    entries = [line.split(":") for line in lines]
    return tuple(int(entry[2]) for entry in entries if user in entry[3].split(","))


def cases(image: Path) -> dict[str, Case]:
    return {
        "root": Case(groups=groups_of(image, "root")),
        "user by name": Case(
            ("-u", "daemon", "-w", "/tmp"), 2, 2, groups_of(image, "daemon"), "/tmp", "/sbin"
        ),
        "user by number": Case(("-u", "4321:99"), 4321, 99, (), "/", "/"),
        "few capabilities": Case(
            ("--cap-drop", "ALL", "--cap-add", "CHOWN", "--security-opt", "no-new-privileges"),
            groups=groups_of(image, "root"), capabilities=["CHOWN"], no_new_privileges=True,
        ),
        "read-only": Case(
            ("--read-only",), groups=groups_of(image, "root"), read_only=True
        ),
    }  # fmt: skip


class Bundle:
    """Runs commands by runc on a tree, in which runc makes what it mounts on."""

    def __init__(self, image: Path, directory: Path) -> None:
        self._image = image
        self.directory = directory
        directory.mkdir()
        for name in ("resolv.conf", "hostname", "hosts"):
            (directory / name).touch()

    def specify(self, case: Case, arguments: Sequence[str], environment: dict[str, str]) -> None:
        names = [f"CAP_{name}" for name in case.capabilities]
        mounts = [
            {"destination": place, "type": kind, "source": kind, "options": options}
            for place, kind, options in MOUNTS
        ]
        mounts += [
            {"destination": f"/etc/{name}", "type": "bind", "source": str(self.directory / name),
             "options": ["rbind", "rprivate", "nodev"]}
            for name in ("resolv.conf", "hostname", "hosts")
        ]  # fmt: skip
        user = {"uid": case.uid, "gid": case.gid, "additionalGids": list(case.groups)}
        document: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "root": {"path": str(self._image), "readonly": case.read_only},
            "hostname": environment["HOSTNAME"],
            "process": {
                "user": user,
                "args": list(arguments),
                "env": [f"{key}={value}" for key, value in environment.items()],
                "cwd": case.cwd,
                "noNewPrivileges": case.no_new_privileges,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
            },
            "mounts": mounts,
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        }
        (self.directory / "config.json").write_text(json.dumps(document))

    def command(self) -> list[str]:
        name = f"test-{os.getpid()}-{time.monotonic_ns()}"
        state = str(self.directory / "state")
        return ["runc", "--root", state, "run", "--bundle", str(self.directory), name]

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def tree(system: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("runc") / "rootfs"
    subprocess.run(["cp", "-a", system, copy], check=True)
    return copy


@pytest.fixture
def bundle(tree: Path, tmp_path: Path) -> Bundle:
    return Bundle(tree, tmp_path / "bundle")


def seen(output: str) -> dict[str, str]:
    """What the probe printed, by subject."""
    facts: dict[str, str] = {}
    for line in output.splitlines():
        first, _, rest = line.partition(" ")
        if first == "mountinfo":
            facts |= mount_fact(rest)
        elif first in ("env", "masked", "fd"):
            key, _, value = rest.partition("=" if first == "env" else " ")
            facts[f"{first} {key}"] = value
        elif first in ("writable", "refused"):
            facts[f"writing {rest}"] = first
        else:
            facts[first] = rest
    return facts


def mount_fact(line: str) -> dict[str, str]:
    """Type and options of a mount; what masks differs in the ways to hide, and is probed."""
    fields = line.split()
    point, options, kind = fields[4], fields[5], fields[fields.index("-") + 1]
    if point in MASKED or point in READ_ONLY:
        return {}
    if point.startswith("/etc/"):
        kind = "bind"
    shown = sorted({*options.split(","), *fields[-1].split(",")} if kind != "bind" else [options])
    return {f"mount {point}": f"{kind} {','.join(shown)}"}


def probes(lazyrun: Lazyrun, bundle: Bundle, case: Case) -> tuple[dict[str, str], dict[str, str]]:
    """What is seen under runc, and under lazyrun."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": os.uname().nodename,
        "HOME": case.home,
        "MASKS": " ".join(MASKED),
    }
    bundle.specify(case, ["sh", "-c", PROBE], environment)
    theirs = bundle.run()
    assert theirs.returncode == 0, theirs.stderr
    masks = f"MASKS={environment['MASKS']}"
    ours = lazyrun.run(*case.options, "-e", masks, "--", "sh", "-c", PROBE)
    assert ours.returncode == 0, ours.stderr
    return seen(theirs.stdout), seen(ours.stdout)


@pytest.mark.parametrize(
    "name", ["root", "user by name", "user by number", "few capabilities", "read-only"]
)
def test_a_program_sees_the_same(lazyrun: Lazyrun, bundle: Bundle, name: str) -> None:
    theirs, ours = probes(lazyrun, bundle, cases(lazyrun.image)[name])
    assert len(theirs) > 50
    unlike = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
    shown = {key: (theirs.get(key), ours.get(key)) for key in sorted(unlike)}
    assert unlike == DIFFERENCES.keys(), shown


@pytest.mark.parametrize(
    "script", ["exit 0", "exit 3", "exit 255", "kill -9 $$", "kill $$; exit 4"]
)
def test_exit_codes(lazyrun: Lazyrun, bundle: Bundle, script: str) -> None:
    bundle.specify(Case(), ["sh", "-c", script], {"PATH": "/bin", "HOSTNAME": "h"})
    assert lazyrun.run("--", "sh", "-c", script).returncode == bundle.run().returncode


@pytest.mark.parametrize(("command", "code"), [("/no/such", 127), ("/etc/passwd", 126)])
def test_what_cannot_start_has_dockers_codes(
    lazyrun: Lazyrun, bundle: Bundle, command: str, code: int
) -> None:
    """runc says 1 for all of them; docker makes 126 and 127 of its message."""
    bundle.specify(Case(), [command], {"PATH": "/bin", "HOSTNAME": "h"})
    assert bundle.run().returncode == 1
    assert lazyrun.run("--", command).returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signals(lazyrun: Lazyrun, bundle: Bundle, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.02; done"
    bundle.specify(Case(), ["sh", "-c", script], {"PATH": "/bin", "HOSTNAME": "h"})
    told = []
    for command in (bundle.command(), lazyrun.command("--", "sh", "-c", script)):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        told.append((process.communicate(timeout=PATIENCE)[0], process.returncode))
    assert told == [(f"got {name}\n", 9)] * 2
