"""Containers from images in a real registry, lazily mounted and pulled, open and behind a login."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Done, assert_refused, call, succeed
from tests.e2e.images import upper_layer, write_image
from tests.parts.leaks import mount_points
from tests.parts.registry import Registry, htpasswd_auth, start_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.overlay,
    pytest.mark.system,
    pytest.mark.registry,
]

OUR_FAILURE = 125
PRINTED = "hello from /srv/app\nreplaced\n"
PASSWORD = "pass:word/é"


@pytest.fixture(scope="module")
def guarded(
    nydus_layout: Path, plain_layout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry that wants a login, with the small image in both formats."""
    root = tmp_path_factory.mktemp("guarded")
    with start_registry(root / "registry", auth=htpasswd_auth(root, "alice", PASSWORD)) as running:
        logins = login_file(root / "auth.json", running.host, PASSWORD)
        for tag, layout in (("plain", plain_layout), ("nydus", nydus_layout)):
            subprocess.run(
                ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
                 "--authfile", logins, f"oci:{layout}:{tag}",
                 f"docker://{running.host}/e2e/small:{tag}"],
                check=True,
            )  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def public(registry: Registry, base_layer: bytes) -> Registry:
    """The open registry with both formats, put there by our own commands."""
    plain, nydus = (f"{registry.host}/e2e/small:{tag}" for tag in ("plain", "nydus"))
    write_image([base_layer, upper_layer()], plain)
    succeed("nydusify", "convert", "--source", plain, "--target", nydus)
    return registry


def login_file(path: Path, host: str, password: str) -> Path:
    login = base64.b64encode(f"alice:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": login}}}))
    return path


def lazyrun(root: Path, *arguments: object) -> Done:
    return call("lazyrun", "run", "--rm", "--root", root, *arguments)


def assert_nothing_left(root: Path) -> None:
    assert list(root.glob("containers/*")) == []
    assert [point for point in mount_points() if point.startswith(str(root))] == []


@pytest.mark.parametrize("tag", ["plain", "nydus"])
def test_from_an_open_registry(public: Registry, tmp_path: Path, tag: str) -> None:
    done = lazyrun(tmp_path, f"{public.host}/e2e/small:{tag}")
    assert (done.returncode, done.stdout) == (0, PRINTED)
    assert ("pulled in full" in done.stderr) == (tag == "plain")
    assert_nothing_left(tmp_path)


@pytest.mark.oci_tools
@pytest.mark.parametrize("tag", ["plain", "nydus"])
def test_behind_a_login(guarded: Registry, tmp_path: Path, tag: str) -> None:
    image = f"{guarded.host}/e2e/small:{tag}"
    logins = login_file(tmp_path / "auth.json", guarded.host, PASSWORD)
    done = lazyrun(tmp_path / "root", "--auth-file", logins, image)
    assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr
    assert_nothing_left(tmp_path / "root")


@pytest.mark.oci_tools
@pytest.mark.parametrize("tag", ["plain", "nydus"])
def test_with_dockers_own_login(guarded: Registry, tmp_path: Path, tag: str) -> None:
    """As after `docker login`: the file is found by the environment."""
    login_file(tmp_path / "config.json", guarded.host, PASSWORD)
    program = Path(sys.executable).with_name("lazyrun")
    done = subprocess.run(
        [program, "run", "--rm", "--root", tmp_path / "root", f"{guarded.host}/e2e/small:{tag}"],
        env={**os.environ, "DOCKER_CONFIG": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, PRINTED), done.stderr
    assert_nothing_left(tmp_path / "root")


@pytest.mark.oci_tools
@pytest.mark.parametrize("tag", ["plain", "nydus"])
@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_refused_login(guarded: Registry, tmp_path: Path, tag: str, password: str | None) -> None:
    logins = tmp_path / "auth.json"
    logins.write_text("{}")
    if password:
        login_file(logins, guarded.host, password)
    image = f"{guarded.host}/e2e/small:{tag}"
    done = lazyrun(tmp_path / "root", "--auth-file", logins, image)
    assert_refused(done, OUR_FAILURE, guarded.host)
    assert_nothing_left(tmp_path / "root")
