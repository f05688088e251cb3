"""Programs and their libraries, by the loader's search rules."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from nydusify.startup.elf import read_elf
from nydusify.startup.loader import parse_cache
from tests.conftest import programs_missing
from tests.startup.trees import image_files, link, paths, wants, write_tree

_MAIN = "int f(void); void _start(void) { f(); for (;;); }"


@pytest.fixture(autouse=True)
def _needs_gcc() -> None:
    if reason := programs_missing("gcc"):
        pytest.skip(reason)


def library(root: Path, path: str, *options: str) -> Path:
    target = root / path
    link(target, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", *options)
    return target


def program(root: Path, *options: str) -> None:
    link(root / "bin/p", "-Wl,-dynamic-linker,/lib/ld.so", "-Wl,--allow-shlib-undefined",
         *options, source=_MAIN)  # fmt: skip
    write_tree(root, {"/lib/ld.so": b"\x7fELF the loader"})


def test_libraries_of_libraries_in_default_directories(tmp_path: Path) -> None:
    root = tmp_path / "root"
    low = library(root, "usr/lib/liblow.so.1")
    high = library(root, "lib/libhigh.so.2", str(low))
    program(root, str(high), "-Wl,-rpath-link," + str(low.parent))
    assert paths(wants(root, tmp_path, ["p"])) == [
        "/bin/p", "/lib/ld.so", "/lib/libhigh.so.2", "/usr/lib/liblow.so.1",
    ]  # fmt: skip


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_runpath_and_rpath_from_origin(tags: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    library(root, "lib/liba.so")
    near = library(root, "opt/own/liba.so")
    program(root, str(near), f"-Wl,{tags},-rpath,$ORIGIN/../opt/own")
    found = paths(wants(root, tmp_path, ["/bin/p"]))
    assert "/opt/own/liba.so" in found
    assert "/lib/liba.so" not in found


def test_rpath_is_inherited_and_runpath_is_not(tmp_path: Path) -> None:
    for tags, there in (("--enable-new-dtags", False), ("--disable-new-dtags", True)):
        work = tmp_path / tags
        root = work / "root"
        low = library(root, "opt/liblow.so")
        high = library(root, "opt/libhigh.so", str(low))
        program(root, str(high), f"-Wl,{tags},-rpath,/opt,-rpath-link,{low.parent}")
        assert ("/opt/liblow.so" in paths(wants(root, work, ["p"]))) is there


def test_library_path_of_the_environment(tmp_path: Path) -> None:
    root = tmp_path / "root"
    program(root, str(library(root, "srv/liba.so")))
    assert "/srv/liba.so" not in paths(wants(root, tmp_path / "1", ["p"]))
    env = ["LD_LIBRARY_PATH=/nowhere:/srv"]
    assert "/srv/liba.so" in paths(wants(root, tmp_path / "2", ["p"], env))


def test_directories_of_the_configuration(tmp_path: Path) -> None:
    root = tmp_path / "root"
    program(root, str(library(root, "srv/lib/liba.so")))
    write_tree(root, {"/etc/ld.so.conf": "include ld.so.conf.d/*.conf\n",
                      "/etc/ld.so.conf.d/a.conf": "# ours\n/srv/lib\n"})  # fmt: skip
    assert "/srv/lib/liba.so" in paths(wants(root, tmp_path, ["p"]))


def cache(entries: dict[str, str]) -> bytes:
    """As ldconfig writes it."""
    header = 48 + 24 * len(entries)
    strings = bytearray()
    table = bytearray()
    for name, path in entries.items():
        places = []
        for text in (name, path):
            places.append(header + len(strings))
            strings += text.encode() + b"\0"
        table += struct.pack("<iIIIQ", 1, *places, 0, 0)
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II", len(entries), len(strings)) + bytes(20)
    return head + table + strings


def test_the_cache_is_asked_before_the_default_directories(tmp_path: Path) -> None:
    root = tmp_path / "root"
    library(root, "lib/liba.so")
    program(root, str(library(root, "srv/liba.so")))
    write_tree(root, {"/etc/ld.so.cache": cache({"liba.so": "/srv/liba.so"})})
    found = paths(wants(root, tmp_path, ["p"]))
    assert found[:4] == ["/bin/p", "/lib/ld.so", "/etc/ld.so.cache", "/srv/liba.so"]


@pytest.mark.parametrize("cut", [0, 10, 30, 60, 70])
def test_a_damaged_cache_is_none(cut: int) -> None:
    assert parse_cache(cache({"liba.so": "/srv/liba.so"})[:cut]) == {}


def test_this_machine_has_a_cache_that_is_read() -> None:
    file = Path("/etc/ld.so.cache")
    if not file.exists():
        pytest.skip("this machine has no ld.so.cache")
    assert any(Path(path).exists() for path in parse_cache(file.read_bytes())["libc.so.6"])


def test_damaged_files_are_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    whole = library(root, "lib/liba.so").read_bytes()
    for cut in (3, 4, 40, 70, 300, len(whole) // 2):
        (root / f"cut{cut}").write_bytes(whole[:cut])
    for at in range(16, 64, 2):
        (root / f"wrong{at}").write_bytes(whole[:at] + b"\xff\xff" + whole[at + 2 :])
    with image_files(root, tmp_path) as files:
        for name in files.names("/"):
            if file := files.file(f"/{name}"):
                read_elf(files, file)  # whatever it says, it raises nothing
        assert files.file("/cut300") is not None


def test_tables_without_code_are_wanted_in_part(tmp_path: Path) -> None:
    root = tmp_path / "root"
    big = "const char data[5000000] = {1}; int f(void) { return data[1]; }"
    target = root / "lib/libdata.so"
    link(target, "-shared", "-fPIC", "-Wl,-soname,libdata.so", source=big)
    program(root, str(target))
    spans = {want.file.path: want.spans for want in wants(root, tmp_path, ["p"])}
    assert spans["/lib/libdata.so"] == [(0, 4096)]


def test_a_program_made_to_be_read_for_ever_is_none(tmp_path: Path) -> None:
    """Its interpreter's name goes on for megabytes without an end."""
    root = tmp_path / "root"
    program(root, str(library(root, "lib/liba.so")))
    whole = bytearray((root / "bin/p").read_bytes())
    at = whole.index(b"/lib/ld.so\0")
    header = whole.index(struct.pack("<Q", at))  # the offset of that segment
    end = len(whole)
    whole[header : header + 8] = struct.pack("<Q", end)
    with (root / "bin/p").open("wb") as file:
        file.write(bytes(whole))
        for _ in range(3):
            file.write(b"x" * (1 << 20))
    (root / "bin/p").chmod(0o755)
    with image_files(root, tmp_path) as files:
        found = files.file("/bin/p")
        assert found is not None
        assert read_elf(files, found) is None
