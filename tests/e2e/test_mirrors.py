"""All three commands find an image by hosts.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.commands import assert_refused, call, succeed
from tests.e2e.images import upper_layer, write_image
from tests.parts.registry import Registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.overlay,
    pytest.mark.system,
    pytest.mark.registry,
]

NAME = "images.invalid/e2e/mirrored"


@pytest.fixture(scope="module")
def hosts_dir(
    registry: Registry, base_layer: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where it says that images.invalid is what the test's registry has, in both formats."""
    root = tmp_path_factory.mktemp("certs.d")
    (root / "images.invalid").mkdir()
    file = root / "images.invalid/hosts.toml"
    file.write_text(f'server = "https://127.0.0.1:1"\n[host."http://{registry.host}"]\n')
    plain = f"{registry.host}/e2e/mirrored:plain"
    write_image([base_layer, upper_layer()], plain)
    target = f"{NAME}:nydus"
    succeed("nydusify", "convert", "--source", plain, "--target", target, "--hosts-dir", root)
    return root


@pytest.mark.parametrize("tag", ["plain", "nydus"])
def test_container(hosts_dir: Path, tmp_path: Path, tag: str) -> None:
    options = ["--root", tmp_path, "--rm", "--hosts-dir", hosts_dir, "--entrypoint", "/bin/echo"]
    assert succeed("lazyrun", "run", *options, f"{NAME}:{tag}", "from", tag) == f"from {tag}\n"


def test_mistake_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "images.invalid").mkdir()
    (tmp_path / "images.invalid/hosts.toml").write_text("server = 5")
    told = ("images.invalid/hosts.toml", "server is no str")
    hosts = ["--hosts-dir", tmp_path]
    done = call("lazyrun", "run", "--root", tmp_path / "root", *hosts, NAME, "true")
    assert_refused(done, 125, *told)
    done = call("nydusify", "convert", *hosts, "--source", NAME, "--target", f"oci:{tmp_path}/t")
    assert_refused(done, 2, *told)
    (tmp_path / "mnt").mkdir()
    state = ["--state-root", tmp_path / "state", "--cache-dir", tmp_path / "cache"]
    done = call("nydus-fs", "mount", *hosts, *state, NAME, tmp_path / "mnt")
    assert_refused(done, 2, *told)
