"""The tree of an image while a layer is added to it: what recipes may do there.

Nothing depends on when, where or by whom it is done: files get fixed times, modes and owners.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

APP = Path(__file__).parent / "app"

#: Files of eStargz's own in its layers.
_LANDMARKS = ("stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark")
_TIME = 1_700_000_000  # not that of the checkout, so that digests do not depend on it
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Tree:
    """`root` is where the tree is; `files` are the recipe's own.

    `stage` is the tree of an earlier build stage.
    """

    def __init__(self, root: Path, files: Path, stage: Path | None = None) -> None:
        self.root = root
        self.files = files
        self._stage = stage

    @property
    def stage(self) -> Path:
        assert self._stage
        return self._stage

    def write(self, path: str, content: str | bytes, mode: int = 0o644, owner: int = 0) -> Path:
        """A file with its directories."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        os.chown(file, owner, owner)
        os.utime(file, (_TIME, _TIME))
        return file

    def copy(self, name: str, path: str, mode: int = 0o644) -> Path:
        """One of the recipe's own files."""
        return self.write(path, (self.files / name).read_bytes(), mode)

    def take(self, path: str) -> Path:
        """A file or directory of the earlier stage, under the same name."""
        source, target = self.stage / path, self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
        return target

    def extract(self, archive: Path) -> None:
        """What is in a tar file, without what eStargz adds to one."""
        run(["tar", "--extract", "--file", str(archive), "--directory", str(self.root),
             "--same-owner", "--same-permissions", "--numeric-owner", "--xattrs",
             "--xattrs-include=*",
             *(f"--exclude={name}" for name in _LANDMARKS)])  # fmt: skip

    def directory(self, path: str, mode: int = 0o755, owner: str | None = None) -> Path:
        """An empty directory; `owner` is a user's name in the image."""
        made = self.root / path
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        if owner:
            os.chown(made, *self.user(owner))
        return made

    def link(self, path: str, target: str) -> None:
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    def user(self, name: str) -> tuple[int, int]:
        """The numbers of a user of the image and its group."""
        for line in (self.root / "etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2]), int(fields[3])
        raise LookupError(f"no user {name} in the image")

    def run(self, *command: str) -> None:
        """A command in the tree, without a network."""
        run(["chroot", str(self.root), *command], PATH=_SEARCH)

    def run_in_stage(self, *command: str) -> str:
        """What a command in the earlier stage prints."""
        return run(["chroot", str(self.stage), *command], PATH=_SEARCH)


def run(command: list[str], **environment: str) -> str:
    """Run to the end in silence; returns what it said, which is in the error if it failed."""
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout
