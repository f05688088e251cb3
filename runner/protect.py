"""Keep the host's Python out of a container's reach.

Before its exec, a container's first process is this program, and /proc/self/exe
in the container names the host's Python: an image whose command is that link
could come to write to it (CVE-2019-5736). So `lazyrun run` starts itself once
more from a read-only, detached mount of its interpreter, through which nobody
can write. Isolated and without `site`, as the second start must cost little.
"""

from __future__ import annotations

import os
import sys

from fs import mounts

_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PROGRAM = (
    "import sys; sys.path[:0] = sys.argv.pop(1).split(':');"
    " from runner import protect; protect.done = True;"
    " from runner.cli import main; sys.exit(main())"
)

done = False


def restart(words: list[str]) -> None:
    """Start `lazyrun` with these arguments from the protected mount; returns if it is there.

    Without root nothing is done: no container can be made then. OSError.
    """
    if done or os.geteuid() != 0:
        return
    mount = mounts.open_tree(sys.executable)
    mounts.set_mount_attributes(mount, mounts.MOUNT_ATTR_RDONLY)
    places = ":".join([_PACKAGES, *(path for path in sys.path if path.endswith("-packages"))])
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM, places, *words]
    os.execve(mount, command, os.environ)
