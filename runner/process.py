"""The container's first process: from fork to exec.

The parent forks into a new PID namespace; the child makes the other
namespaces, the mounts and the root, takes on its identity and executes the
command. Between fork and exec it only makes system calls: whatever it may need
is imported before, and importing is switched off before it enters the image's
root, where a module would be the image's own code run with our rights.

What goes wrong before the exec comes back through a pipe, as an exit code of
docker's (125 ours, 126 cannot be executed, 127 not found) and one line.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from fs import mounts, rootdir
from fs.format.errors import Failure
from runner import capabilities, init, rootfs, syscalls, terminal
from runner.exitcodes import CANNOT_EXECUTE, NOT_FOUND, OUR_FAILURE
from runner.mountplan import Step
from runner.signals import Signals
from runner.users import User


class StartError(Failure):
    """The command did not start; `exit_code` says why in docker's way."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Container(NamedTuple):
    """Everything that the first process needs to know.

    `root` is the directory where the image with its writable layer is mounted;
    `capabilities` a bit mask; `hostname` None keeps the host's.
    """

    root: str
    steps: tuple[Step, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    user: User
    capabilities: int
    hostname: str | None = None
    own_network: bool = False
    read_only: bool = False
    no_new_privileges: bool = False
    interactive: bool = False
    tty: bool = False
    with_init: bool = False


class Started(NamedTuple):
    """A running container: `console` is the master of its terminal, if it has one."""

    pid: int
    console: int | None


def start(container: Container, signals: Signals) -> Started:
    """Start the container's process. Raises StartError or Interrupted; nothing is left then."""
    reader, reporter = os.pipe()
    consoles = terminal.channel() if container.tty else None
    sys.stdout.flush()
    sys.stderr.flush()
    pid = _fork_into_pid_namespace()
    if pid == 0:
        os.close(reader)
        _child(container, reporter, consoles)
    os.close(reporter)
    try:
        console = consoles.receive(signals) if consoles else None
        _raise_report(_read_all(reader, signals))
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reader)
    return Started(pid, console)


def _raise_report(report: bytes) -> None:
    if report:
        code, _, message = report.partition(b" ")
        raise StartError(int(code), message.decode(errors="replace"))


def _fork_into_pid_namespace() -> int:
    """fork(2) with the child as process 1 of a new PID namespace; we stay in ours."""
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            syscalls.setns(ours, syscalls.CLONE_NEWPID)
    finally:
        os.close(ours)
    return pid


def _read_all(descriptor: int, signals: Signals) -> bytes:
    pieces = []
    signals.await_readable(descriptor)
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
        signals.await_readable(descriptor)
    return b"".join(pieces)


def _child(container: Container, reporter: int, consoles: terminal.Channel | None) -> NoReturn:
    code, message = OUR_FAILURE, ""
    try:
        _become(container, reporter, consoles)
    except StartError as error:
        code, message = error.exit_code, error.message
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    except BaseException as error:
        message = f"internal error: {type(error).__name__}: {error}"
    try:
        os.write(reporter, f"{code} {message}".encode(errors="replace")[:4096])
    finally:
        os._exit(code)


def _become(container: Container, reporter: int, consoles: terminal.Channel | None) -> NoReturn:
    _restore_signals()
    _tie_to_parent(reporter)
    os.setsid()
    kinds = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
    syscalls.unshare(kinds | (syscalls.CLONE_NEWNET if container.own_network else 0))
    rootfs.set_propagation(mounts.MS_PRIVATE)
    syscalls.new_session_keyring()
    os.umask(0o022)
    if container.own_network:
        init.raise_loopback()
    if container.hostname is not None:
        syscalls.set_hostname(container.hostname)
    root = os.open(container.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rootfs.build(root, container.steps)
    os.close(rootdir.make_directory(root, container.workdir))
    if consoles is not None:
        terminal.adopt(root, consoles, container.user.uid)
    elif not container.interactive:
        _read_nothing(root)
    if container.read_only:
        mounts.set_mount_attributes(root, mounts.MOUNT_ATTR_RDONLY)
    sys.meta_path.clear()  # from here on every import would be the image's
    sys.path.clear()
    rootfs.enter(root)
    os.chdir(container.workdir)
    syscalls.close_on_exec_from(3)
    _take_identity(container)
    _tie_to_parent(reporter)  # a change of identity undoes it
    if container.with_init:
        init.run(lambda: _execute(container), reporter)
    _execute(container)


def _restore_signals() -> None:
    """What Python ignores and what we handle or block is the command's to decide."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _tie_to_parent(reporter: int) -> None:
    """Die with the parent, also if it is dead already: then nobody can read the report."""
    syscalls.die_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(reporter, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        os._exit(OUR_FAILURE)


def _read_nothing(root: int) -> None:
    place = rootfs.open_null(root)
    null = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.close(place)


def _take_identity(container: Container) -> None:
    """Capabilities, groups and user; for a user other than root no capability stays in effect."""
    user = container.user
    for number in range(len(capabilities.NAMES)):
        if not container.capabilities >> number & 1:
            _drop_capability(number)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    syscalls.clear_ambient_capabilities()
    if user.uid:
        os.setresuid(user.uid, user.uid, user.uid)
    else:
        held = container.capabilities & capabilities.permitted()
        syscalls.set_capabilities(held, held, 0)
    if container.no_new_privileges:
        syscalls.forbid_new_privileges()


def _drop_capability(number: int) -> None:
    try:
        syscalls.drop_from_bounding_set(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the kernel does not know this one
            raise


def _execute(container: Container) -> NoReturn:
    """exec the command, sought in the container's PATH."""
    name = container.arguments[0]
    search = container.environment.get("PATH", "").split(":")
    places = [name] if "/" in name else [f"{place or '.'}/{name}" for place in search]
    refused: OSError | None = None
    for place in places:
        try:
            os.execve(place, container.arguments, container.environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or error
    if refused is not None:
        raise StartError(CANNOT_EXECUTE, f"{name}: {refused.strerror}")
    where = "no such file" if "/" in name else "not found in PATH"
    raise StartError(NOT_FOUND, f"{name}: {where}")
