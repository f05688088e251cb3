"""What can be known of daemons when something went wrong, before it is cleared away.

Nothing here asks a daemon or its mounts, which may hang: only files, the kernel's tables and
what they tell of processes are read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fs.daemon.state import LOG, STATE, directories, read_state

#: Of a log, the last so many characters.
_TAIL = 20_000


def report(state_roots: Sequence[Path], below: Path) -> str:
    """State, log and processes of every daemon of `state_roots`, and the mounts below a place."""
    parts = [part for root in state_roots for part in _of_daemons(root)]
    table = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    mounts = [line for line in table if str(below) in line]
    return "\n".join([*parts, f"--- mountinfo below {below}", *mounts, _unanswered()])


def _of_daemons(state_root: Path) -> Iterator[str]:
    if not state_root.exists():
        yield f"--- {state_root}: not there"
        return
    for directory in directories(str(state_root)):
        for name in (STATE, LOG):
            with contextlib.suppress(OSError):
                text = Path(directory, name).read_text(errors="replace")
                yield f"--- {directory}/{name}\n{text[-_TAIL:]}"
        if state := read_state(directory):
            yield from map(_process, _family(state["pid"]))


def _family(pid: int) -> list[int]:
    """A supervisor and its workers."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]
    return [pid]


def _process(pid: int) -> str:
    """Its threads with what each waits for in the kernel."""
    lines = [f"--- process {pid}"]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            state = (task / "stat").read_text().rpartition(") ")[2][:1]
            stack = [line.split()[-1] for line in (task / "stack").read_text().splitlines()[:4]]
            lines.append(f"{task.name} {state} {' < '.join(stack)}")
    return "\n".join(lines)


def _unanswered() -> str:
    """Requests of every FUSE connection that nobody has answered."""
    lines = ["--- unanswered FUSE requests, by connection"]
    with contextlib.suppress(OSError):
        for connection in Path("/sys/fs/fuse/connections").iterdir():
            lines.append(connection.name + " " + (connection / "waiting").read_text().strip())
    return "\n".join(lines)
