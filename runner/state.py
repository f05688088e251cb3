"""Containers on disk: who they are, whether they live, what is left of them.

    ROOT/lock                      held while containers are made or swept
    ROOT/containers/<id>/lock      held by the lazyrun process of a container as long as it lives
    ROOT/containers/<id>/state.json
    ROOT/containers/<id>/rootfs    where its root is mounted, in a namespace of its own
    ROOT/containers/<id>/{hosts,hostname,resolv.conf}
    ROOT/store                     the snapshots

A lock, not a process number, tells whether a container's lazyrun lives: the
kernel frees it however the process ends. The state file is replaced whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fs.format.errors import NotFoundError, StorageError, UsageError, local_errors
from snapshotter.trees import remove_tree

CREATED = "created"
RUNNING = "running"
EXITED = "exited"

DEFAULT_ROOT = "/var/lib/lazyrun"

_GONE = ".gone"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class ContainerRecord:
    """One container's directory. `state` is what its file holds; `save` writes it."""

    def __init__(self, directory: str, state: dict[str, Any]) -> None:
        self.directory = directory
        self.state = state
        self._lock = -1

    @property
    def id(self) -> str:
        return os.path.basename(self.directory)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def take(self) -> bool:
        """Lock the container as its owner; False if its owner lives or has just removed it."""
        try:
            self._lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(self.path("lock")):
                return True
        self.release()
        return False

    def reload(self) -> bool:
        """Read the state again; False if the container is gone."""
        self.state = _read_state(self.directory)
        return os.path.exists(self.directory)

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self, **changes: object) -> None:
        self.state |= changes
        temporary = self.path("state.json.new")
        with local_errors(self.directory):
            with open(temporary, "w") as file:
                json.dump(self.state, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.path("state.json"))

    def delete(self) -> None:
        """Remove the directory; at once for those who look, piece by piece elsewhere."""
        gone = os.path.dirname(os.path.dirname(self.directory)) + f"/{self.id}{_GONE}"
        with local_errors(self.directory):
            os.rename(self.directory, gone)
        remove_tree(gone)
        self.release()

    def kill(self) -> None:
        """Kill the container's first process if it outlived its lazyrun."""
        pid, started = self.state.get("pid"), self.state.get("pid_started")
        if pid is None:
            return
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                if start_time(pid) == started:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    _await_end(process)
            finally:
                os.close(process)


def _await_end(process: int) -> None:
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll(10_000)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its number, who it is."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None


class Containers:
    """The containers below `root`, which is made if missing."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._directory = os.path.join(self.root, "containers")
        with local_errors(self.root):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            os.chmod(self.root, 0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        descriptor = os.open(
            os.path.join(self.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def create(self, name: str | None, **state: object) -> ContainerRecord:
        """A new container of ours, its lock taken. UsageError when the name is bad or taken."""
        if name is not None and not _NAME.fullmatch(name):
            raise UsageError(f"not a name for a container: {name!r}")
        with self.locked():
            if name is not None and any(name in _names(record) for record in self.all()):
                raise UsageError(f"the name {name} is in use by another container")
            directory = os.path.join(self._directory, os.urandom(6).hex())
            with local_errors(directory):
                os.makedirs(os.path.join(directory, "rootfs"), mode=0o700)
            record = ContainerRecord(directory, {})
            record.take()
            fixed = {"id": record.id, "name": name or record.id, "status": CREATED}
            try:
                record.save(**fixed, created=time.time(), **state)
            except BaseException:
                record.delete()
                raise
        return record

    def all(self) -> list[ContainerRecord]:
        """Every container, oldest first."""
        found = []
        for identifier in os.listdir(self._directory):
            directory = os.path.join(self._directory, identifier)
            found.append(ContainerRecord(directory, _read_state(directory)))
        return sorted(found, key=lambda record: record.state.get("created", 0))

    def find(self, wanted: str) -> ContainerRecord:
        """By name, identifier or the beginning of one. NotFoundError."""
        records = self.all()
        for record in records:
            if wanted in _names(record):
                return record
        close = [record for record in records if wanted and record.id.startswith(wanted)]
        if len(close) != 1:
            raise NotFoundError(f"no such container: {wanted}")
        return close[0]

    def abandoned(self) -> list[ContainerRecord]:
        """Those whose lazyrun died without clearing up, taken over by us."""
        for name in os.listdir(self.root):
            if name.endswith(_GONE):
                remove_tree(os.path.join(self.root, name))
        with self.locked():
            return [r for r in self.all() if r.state.get("status") != EXITED and r.take()]


def _names(record: ContainerRecord) -> tuple[str, str]:
    return record.id, record.state.get("name", record.id)


def _read_state(directory: str) -> dict[str, Any]:
    """The state in a directory; of one whose making was cut short, that there is none."""
    try:
        with open(os.path.join(directory, "state.json"), "rb") as file:
            state: dict[str, Any] = json.load(file)
            return state
    except FileNotFoundError:
        return {"status": CREATED, "remove": True}
    except (OSError, ValueError) as error:
        raise StorageError(f"{directory}: {error}") from None
