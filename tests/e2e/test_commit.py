"""`nydusify commit --container`: what a lazyrun container wrote is in the new image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import succeed

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
