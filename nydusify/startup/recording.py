"""What an image's start touches, found out by starting it: `lazyrun run` with a trace.

The container runs with a cache of its own, which is empty, so that nothing that the start
needs is missed. It is ended as soon as it is ready. The tree is served by FUSE: through EROFS
the kernel would also read what happens to lie behind the files in their blob.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fs.format.errors import NotFoundError
from fs.registry.store import StoreOptions
from nydusify.startup.readiness import Exit, Outcome, Program, Ready


@dataclass(frozen=True)
class Recording:
    """How to start the image and when it is ready. `options` are those of `lazyrun run`."""

    ready: Ready = field(default_factory=Exit)
    timeout: float = 300.0
    options: Sequence[str] = ()
    arguments: Sequence[str] = ()
    stdin: bytes | None = None


def record(
    source: str, store: StoreOptions, recording: Recording, work: Path, trace: Path
) -> Outcome:
    """Run `source` until it is ready; what was touched is in `trace` then.

    NotReadyError, and NotFoundError if there is no lazyrun.
    """
    command = [lazyrun(), "run", "--rm", "--interactive", "--root", str(work / "run")]
    command += ["--driver", "fuse", "--trace", str(trace), *_access(store), *recording.options]
    command += [_absolute(source), *recording.arguments]
    script = recording.stdin
    with Program(command, script or b"", hold=script is None) as program:
        outcome = program.wait_until(recording.ready, recording.timeout)
        program.end()
    return outcome


def lazyrun() -> str:
    """The command beside this one, or on the PATH."""
    for program in (sys.argv[0], sys.executable):
        beside = Path(program).parent / "lazyrun"
        if os.access(beside, os.X_OK):
            return str(beside)
    found = shutil.which("lazyrun")
    if found is None:
        raise NotFoundError("lazyrun: no such command; it starts the image that is recorded")
    return found


def _access(store: StoreOptions) -> list[str]:
    words = ["--plain-http"] if store.plain_http else []
    words += ["--insecure"] if store.insecure else []
    words += ["--auth-file", str(store.auth_file)] if store.auth_file else []
    words += ["--ca-file", str(store.ca_file)] if store.ca_file else []
    if store.hosts_dirs:
        words += ["--hosts-dir", ":".join(map(str, store.hosts_dirs))]
    return words


def _absolute(source: str) -> str:
    kind, colon, rest = source.partition(":")
    if colon and kind in ("oci", "oci-archive", "docker-archive"):
        return f"{kind}:{os.path.abspath(rest)}"
    return source
