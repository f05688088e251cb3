"""Recipes: which packages and changes make an image. Data and plain functions only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

APP = Path(__file__).parent / "app"

_APP_TIME = 1_700_000_000  # not that of the checkout, so that digests do not depend on it

# VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted and effective.
_BIND_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@dataclass(frozen=True)
class Recipe:
    """A Debian base layer, a layer of `packages`, and a layer of what `finish` changes."""

    name: str
    packages: tuple[str, ...]
    finish: Callable[[Path], None]
    config: Mapping[str, object] = field(default_factory=dict)
    suite: str = "bookworm"


def finish_flask(root: Path) -> None:
    """Add the application, and delete and replace parts of the layers below.

    Leaves whiteouts (files and a whole directory), an opaque directory, replaced and
    re-moded files, a hard link, a symlink and a file capability.
    """
    (root / "opt/app").mkdir()
    for source in (APP / "main.py", APP / "settings.yaml"):
        copy = root / "opt/app" / source.name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o644)
        os.utime(copy, (_APP_TIME, _APP_TIME))
    os.link(root / "opt/app/main.py", root / "opt/app/main-again.py")
    (root / "usr/local/bin/app").symlink_to("../../../opt/app/main.py")
    server = root / "opt/app/serve"
    server.write_text("#!/bin/sh\nexec python3 /opt/app/main.py\n")
    server.chmod(0o755)
    os.setxattr(server, "security.capability", _BIND_CAPABILITY)

    shutil.rmtree(root / "usr/share/doc")
    shutil.rmtree(root / "usr/share/man")
    (root / "usr/share/man").mkdir()
    (root / "usr/share/man/README").write_text("Manual pages were taken out.\n")
    (root / "etc/debian_version").unlink()
    (root / "etc/issue").write_text("A demo image.\n")
    (root / "etc/issue.net").chmod(0o600)
    (root / "var/lib/app").mkdir()
    os.chown(root / "var/lib/app", 1000, 1000)


FLASK = Recipe(
    name="flask",
    packages=("python3-flask", "python3-yaml"),
    finish=finish_flask,
    config={
        "Env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "GREETING=hello",
        ],
        "Entrypoint": ["python3"],
        "Cmd": ["/opt/app/main.py"],
        "WorkingDir": "/opt/app",
    },
)
