"""`nydusify commit --container`: what a lazyrun container wrote is in the new image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import assert_refused, call, succeed
from tests.parts.waiting import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlay, pytest.mark.system]


def test_a_container_that_has_ended(nydus_layout: Path, tmp_path: Path) -> None:
    own = ("--root", tmp_path / "root")
    script = "echo written >/etc/motd; rm /bin/ls; mkdir /made; ln -s /etc/motd /made/link"
    succeed("lazyrun", "run", *own, "--name", "writer", f"oci:{nydus_layout}:nydus", script)
    target = f"oci:{tmp_path}/out:t"
    succeed("nydusify", "commit", "--container", "writer", *own, "--target", target)
    script = "cat /made/link; test -e /bin/ls || echo gone; echo $GREETING"
    said = succeed("lazyrun", "run", "--rm", *own, target, script)
    assert said == "written\ngone\nhello\n"
    # What lazyrun itself put there is not in the image.
    listing = succeed("nydusify", "inspect", target, "-R", "ls /etc")
    assert '"resolv.conf"' not in listing
    succeed("lazyrun", "rm", *own, "writer")


def test_what_is_mounted_in_a_container(nydus_layout: Path, tmp_path: Path) -> None:
    own = ("--root", tmp_path / "root")
    volume = tmp_path / "volume"
    (volume / "below").mkdir(parents=True)
    (volume / "below/note").write_text("mounted\n")
    (volume / "motd").write_text("again\n")
    place = f"oci:{nydus_layout}:nydus"
    script = "echo written >/etc/motd; echo no >/root/secret; echo up; read line"
    process = subprocess.Popen(
        [
            Path(sys.executable).parent / "lazyrun",
            "run",
            "-i",
            *own,
            "--name",
            "mounts",
            "-v",
            f"{volume}:/mnt/vol:ro",
            place,
            script,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    target = f"oci:{tmp_path}/out:t"
    commit = ("nydusify", "commit", "--container", "mounts", *own, "--target", target)
    try:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        succeed(*commit, "--with-path", "/mnt/vol", "--with-path", "!/root/secret")
        for wrong in ("/bin/sh", "/none", "relative", "/"):
            done = call(*commit, "--with-path", wrong)
            assert done.returncode in (2, 5, 8)
            assert done.stderr.count("\n") == 1
    finally:
        process.communicate("on\n", timeout=PATIENCE)
    said = succeed(
        "lazyrun", "run", "--rm", *own, target,
        "cat /etc/motd /mnt/vol/below/note /mnt/vol/motd; test -e /root/secret || echo gone",
    )  # fmt: skip
    assert said == "written\nmounted\nagain\ngone\n"
    assert_refused(call(*commit, "--with-path", "/mnt/vol"), 2, "only a running container")
    succeed("lazyrun", "rm", *own, "mounts")
