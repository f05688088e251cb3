"""`nydusify slim`: what was read is there, what must not be missing too, and the rest is told."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fs.registry.store import open_reader
from nydusify.cli import main
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.verbs.test_inspect import write_trace

Captured = pytest.CaptureFixture[str]


def application() -> LayerTar:
    tar = LayerTar().add("usr/bin/app", data=b"app" * 999, mode=0o755)
    tar.symlink("bin", "usr/bin").symlink("usr/bin/run", "app").symlink("first", "second")
    tar.symlink("second", "/bin/run").symlink("unused-link", "usr/bin/other")
    tar.symlink("proc-link", "/proc/self/fd").symlink("loop", "loop")
    tar.add("usr/bin/other", data=b"other" * 99).link("usr/bin/again", "usr/bin/app")
    for name in ("etc/passwd", "etc/ssl/certs/ca.pem", "usr/share/doc/x/copyright", "etc/app.conf",
                 "usr/share/doc/x/README", "etc/ld.so.cache", "lib/m.py", "lib/n.py",
                 "lib/__pycache__/m.cpython-311.pyc", "lib/__pycache__/n.cpython-311.pyc",
                 "usr/share/zoneinfo/Europe/Paris", "opt/plugin.so"):  # fmt: skip
        tar.add(name, data=name.encode())
    return tar.add("lib/__init__.py").add("dev-null", b"3", device=(1, 3)).directory("empty-dir")


READ = (b"usr/bin/app", b"lib/__pycache__/m.cpython-311.pyc")
KEPT = {
    "usr/bin/app", "usr/bin/again", "usr/bin/run", "first", "second", "proc-link", "etc/passwd",
    "bin", "loop", "etc/ssl/certs/ca.pem",
    "usr/share/doc/x/copyright", "etc/ld.so.cache", "lib/m.py",
    "lib/__pycache__/m.cpython-311.pyc", "lib/__init__.py", "dev-null",
}  # fmt: skip
LEFT = {
    "usr/bin/other", "unused-link", "etc/app.conf", "usr/share/doc/x/README", "lib/n.py",
    "lib/__pycache__/n.cpython-311.pyc", "usr/share/zoneinfo/Europe/Paris", "opt/plugin.so",
}  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> str:
    source, target = f"oci:{tmp_path}/i:p", f"oci:{tmp_path}/i:n"
    write_plain_image(source, [application().tar()], {"Cmd": ["/first"]})
    assert main(["convert", "--source", source, "--target", target]) == 0
    (tmp_path / "pulled").mkdir()
    write_trace(tmp_path / "trace", target, tmp_path / "pulled", *READ)
    return target


def slim(capsys: Captured, image: str, target: str, trace: Path, *more: str) -> Any:  # noqa: ANN401
    capsys.readouterr()
    words = ["slim", "--source", image, "--target", target, "--trace", str(trace), "--json"]
    assert main([*words, *more]) == 0
    return json.loads(capsys.readouterr().out)


def names(place: str, tmp_path: Path) -> set[str]:
    """Everything but directories."""
    output = tmp_path / "slim.tar"
    assert main(["unpack", place, "-o", str(output)]) == 0
    with tarfile.open(output) as archive:
        return {member.name.removeprefix("./") for member in archive if not member.isdir()}


def test_what_is_kept(image: str, tmp_path: Path, capsys: Captured) -> None:
    target, report = f"oci:{tmp_path}/o:slim", tmp_path / "report"
    told = slim(capsys, image, target, tmp_path / "trace", "--report", str(report))
    assert names(target, tmp_path) == KEPT
    assert {path.removeprefix("/") for path, _ in told["left"]} == LEFT
    assert told["left"][0] == ["/usr/bin/other", 495]
    assert told["left_size"] == sum(size for _, size in told["left"])
    assert json.loads(report.read_text()) == told
    assert told["directories"]["/usr/bin"] == {"files": 1, "size": 495}
    assert main(["check", target]) == 0
    kept = open_reader(target).resolve(nydus=True).config.document
    assert kept["config"] == {"Cmd": ["/first"]}


def test_what_the_user_keeps(image: str, tmp_path: Path, capsys: Captured) -> None:
    target = f"oci:{tmp_path}/o:slim"
    more = ["--keep", "/usr/share/zoneinfo/", "--keep", "*.so", "--keep", "/etc/app.*"]
    slim(capsys, image, target, tmp_path / "trace", *more)
    wanted = {"usr/share/zoneinfo/Europe/Paris", "opt/plugin.so", "etc/app.conf"}
    assert names(target, tmp_path) == KEPT | wanted


def test_an_ordinary_image(image: str, tmp_path: Path, capsys: Captured) -> None:
    target = f"oci:{tmp_path}/o:slim"
    slim(capsys, image, target, tmp_path / "trace", "--plain")
    (layer,) = open_reader(target).resolve().manifest.layers
    assert layer.media_type.endswith("tar+gzip")
    assert main(["convert", "--source", target, "--target", f"oci:{tmp_path}/o:back"]) == 0
    assert names(f"oci:{tmp_path}/o:back", tmp_path) == KEPT


def test_a_trace_of_another_image(images: Path, image: str, tmp_path: Path) -> None:
    words = ["slim", "--source", f"oci:{images}:nydus", "--trace", str(tmp_path / "trace")]
    assert main([*words, "--target", f"oci:{tmp_path}/o:slim"]) == 2
    assert main([*words[:3], "--trace", "none", "--target", f"oci:{tmp_path}/o:slim"]) == 5
    assert not (tmp_path / "o").exists()
