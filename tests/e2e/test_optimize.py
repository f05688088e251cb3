"""`nydusify optimize --record`: the start is recorded, and then comes in one request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import assert_refused, call, succeed
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlay, pytest.mark.system]

#: The image's entry point is a shell that takes it.
_SCRIPT = "cat /etc/passwd >/dev/null && echo ready && cat"


def optimize(layout: Path, target: Path, *words: object) -> str:
    return succeed(
        "nydusify", "optimize", "--source", f"oci:{layout}:nydus", "--target", f"oci:{target}:fast",
        "--record", *words,
    )  # fmt: skip


def mounted(target: Path, work: Path) -> dict[str, Any]:
    """Status of a new mount, once its prefetch is done."""
    (work / "mnt").mkdir()
    where = ("--state-root", work / "state")
    succeed("nydus-fs", "mount", f"oci:{target}:fast", work / "mnt", *where,
            "--cache-dir", work / "cache")  # fmt: skip
    shown: list[dict[str, Any]] = []

    def done() -> bool:
        shown[:] = json.loads(succeed("nydus-fs", "status", "--json", *where))
        return bool(shown[0]["prefetch"]["state"] == "done")

    eventually(done, "the prefetch is done")
    return shown[0]


def test_the_start_comes_by_one_request(nydus_layout: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    said = optimize(nydus_layout, tmp_path / "out", "--ready-log", "^ready$", "--keep-trace", trace,
                    "--", _SCRIPT)  # fmt: skip
    assert said.startswith("start-up set: ")
    assert trace.stat().st_size > 0
    status = mounted(tmp_path / "out", tmp_path)
    try:
        assert status["requests"] == 1
        for name in ("bin/busybox", "etc/passwd"):
            assert (tmp_path / "mnt" / name).read_bytes()
    finally:
        after = json.loads(
            succeed("nydus-fs", "status", "--json", "--state-root", tmp_path / "state")
        )[0]
        succeed("nydus-fs", "umount", tmp_path / "mnt", "--state-root", tmp_path / "state")
    assert after["requests"] == 1
    assert after["fetched_bytes"] == status["fetched_bytes"]


def test_an_image_that_does_not_become_ready_is_not_published(
    nydus_layout: Path, tmp_path: Path
) -> None:
    done = call(
        "nydusify", "optimize", "--source", f"oci:{nydus_layout}:nydus",
        "--target", f"oci:{tmp_path}/out:fast", "--record", "--", "echo oh; exit 3",
    )  # fmt: skip
    assert_refused(done, 1, "ended with 3 before it was ready; it said: oh")
    assert not (tmp_path / "out").exists()
