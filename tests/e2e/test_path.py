"""From an ordinary image to a running container that fetched a part of it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import call, succeed
from tests.e2e.images import manifest_of, tags_of
from tests.parts.registry import Registry

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlay, pytest.mark.system]

PRINTED = "hello from /srv/app\nreplaced\n"


def run(root: Path, image: str, *command: str) -> str:
    return succeed("lazyrun", "run", "--rm", "--root", root, image, *command)


def test_layout_to_layout_to_container(nydus_layout: Path, tmp_path: Path) -> None:
    assert tags_of(nydus_layout) == ["nydus"]
    assert run(tmp_path, f"oci:{nydus_layout}:nydus") == PRINTED


def test_upper_layer_is_applied(nydus_layout: Path, tmp_path: Path) -> None:
    script = "ls /etc/network; stat -c %h data; sha256sum < again; echo x > /new; cat /new"
    printed = run(tmp_path, f"oci:{nydus_layout}:nydus", script)
    digest = hashlib.sha256(bytes(range(256)) * 8192).hexdigest()
    assert printed.split() == ["only", "2", digest, "-", "x"]


@pytest.mark.registry
@pytest.mark.oci_tools
def test_registry_to_registry_to_container(
    plain_layout: Path, registry: Registry, tmp_path: Path
) -> None:
    plain, nydus = f"{registry.host}/e2e/path:plain", f"{registry.host}/e2e/path:nydus"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
         f"oci:{plain_layout}:plain", f"docker://{plain}"],
        check=True,
    )  # fmt: skip
    succeed("nydusify", "convert", "--source", plain, "--target", nydus)

    before = len(registry.requests("/v2/e2e/path/"))
    assert run(tmp_path, nydus) == PRINTED
    answers = registry.requests("/v2/e2e/path/")[before:]
    fetched = sum(int(answer.get("http.response.written", 0)) for answer in answers)
    size = sum(layer["size"] for layer in manifest_of(plain_layout, "plain")["layers"])
    assert fetched < 0.7 * size


def test_plain_image_runs_too_and_says_so(plain_layout: Path, tmp_path: Path) -> None:
    done = call("lazyrun", "run", "--rm", "--root", tmp_path, f"oci:{plain_layout}:plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout == PRINTED
    assert "not a Nydus image" in done.stderr


def test_same_input_gives_same_digests(
    nydus_layout: Path, plain_layout: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    succeed(
        "nydusify", "convert", "--source", f"oci:{plain_layout}:plain",
        "--target", f"oci:{again}:nydus",
    )  # fmt: skip
    assert (again / "index.json").read_text() == (nydus_layout / "index.json").read_text()


@pytest.mark.parametrize("code", [0, 3, 126, 127])
def test_exit_code_of_the_container(nydus_layout: Path, tmp_path: Path, code: int) -> None:
    image = f"oci:{nydus_layout}:nydus"
    done = call("lazyrun", "run", "--rm", "--root", tmp_path, image, f"exit {code}")
    assert done.returncode == code
