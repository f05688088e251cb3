"""Stacks of layers that matter for merging: made by hand, one oddity each, and drawn at random."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.parts.layers import LayerTar


def base() -> LayerTar:
    return (
        LayerTar()
        .directory("./", mode=0o755, mtime_ns=5 * 10**9)
        .directory("dir/", mode=0o2775, uid=7, gid=8, xattrs={b"user.d": b"1"})
        .add("dir/a", data=b"a" * 10_000, mode=0o4755, uid=1, gid=2)
        .link("dir/b", "dir/a", mode=0o4755, uid=1, gid=2)
        .link("c", "./dir/a", mode=0o4755, uid=1, gid=2)
        .add("dir/sub/deep/file", data=b"deep")
        .symlink("lnk", "dir")
        .symlink("dangling", "/no/where")
        .add("dev", b"3", device=(1, 3))
        .add("blk", b"4", device=(259, 70_000))
        .add("fifo", b"6", mode=0o600)
        .add("empty")
        .add(
            "top",
            data=b"top",
            mtime_ns=1_234_567_890_123_456_789,
            xattrs={
                b"user.x": b"\0\xff",
                b"security.capability": b"\x01\0\0\x02\0\x20\0\0" + bytes(12),
            },
        )
    )


UPPERS = {
    "nothing": LayerTar(),
    "whiteouts": LayerTar().add("dir/.wh.a").add(".wh.lnk").add(".wh.not-there").add("x/y/.wh.z"),
    "whiteout of a directory": LayerTar().add(".wh.dir"),
    "whiteout and file": LayerTar().add("top", data=b"new").add(".wh.top"),
    "whiteout and directory": LayerTar().directory("dir").add("dir/new").add(".wh.dir"),
    "opaque first": LayerTar().add("dir/.wh..wh..opq").add("dir/new"),
    "opaque last": LayerTar().add("dir/sub/new").add("dir/.wh..wh..opq"),
    "opaque implied": LayerTar().add("dir/sub/.wh..wh..opq"),
    "opaque root": LayerTar().add("only").directory("dir").add(".wh..wh..opq"),
    "aufs files": LayerTar().add(".wh..wh.aufs").directory(".wh..wh.plnk")
        .add(".wh..wh.plnk/1.2", data=b"shared").link("h", ".wh..wh.plnk/1.2")
        .link("i", ".wh..wh.plnk/1.2"),
    "directory over file": LayerTar().directory("top").add("top/x"),
    "directory over link": LayerTar().directory("lnk").add("lnk/x"),
    "file over directory": LayerTar().add("dir", data=b"now a file"),
    "link over directory": LayerTar().symlink("dir", "elsewhere"),
    "same entry thrice": LayerTar().add("n").directory("n").add("n/x").add("n", data=b"3"),
    "directory listed twice": LayerTar().directory("dir", mode=0o700, xattrs={b"user.a": b"1"})
        .directory("dir", mode=0o711, xattrs={b"user.b": b"2"}),
    "directory attributes only": LayerTar().directory("dir", mode=0o1777, uid=3, mtime_ns=77),
    "root attributes": LayerTar().directory(".", mode=0o700, uid=9, xattrs={b"user.r": b"r"}),
    "implied directories": LayerTar().add("dir/sub/new").add("fresh/one/two"),
    "hard link to the layer below": LayerTar().link("new", "dir/a", mode=0o600, uid=5),
    "hard link below, chained": LayerTar().link("n1", "top").link("n2", "n1").link("n3", "top"),
    "hard link below, replaced": LayerTar().link("n1", "top").add("top", data=b"other"),
    "hard link below, dropped": LayerTar().link("n1", "top").add("n1", data=b"other"),
    "hard link to a link": LayerTar().symlink("s", "x").link("t", "s"),
    "hard link to a link below": LayerTar().link("t", "dangling"),
    "hard link to a device below": LayerTar().link("t", "dev").link("u", "fifo"),
    "hard link below with attributes": LayerTar().link("t", "top", xattrs={b"user.new": b"1"}),
    "link parent in the layer": LayerTar().directory("real").symlink("way", "/real").add("way/x"),
    "link parent to nowhere": LayerTar().symlink("way", "../../gone/../there").add("way/x"),
    "link parent below": LayerTar().add("lnk/x"),
    "hard link through links": LayerTar().add("r/f").symlink("w", "r").link("h", "w/f"),
    "out of the root": LayerTar().add("../../up").add("/absolute").add("a/../b").add("./q/./d//e"),
    "link out of the root": LayerTar().symlink("out", "../../../etc").add("out/passwd", data=b"x"),
    "device 0:0": LayerTar().add("top", b"3").add("dir/zero", b"3"),
    "device 0:0 replaced": LayerTar().add("dir", b"3").directory("dir"),
    "overlay marks": LayerTar().directory("dir", xattrs={b"trusted.overlay.opaque": b"y",
                                                         b"trusted.overlay.redirect": b"/x"}),
    "odd xattrs": LayerTar().add("x", xattrs={b"odd.name": b"1", b"trusted.t": b"2"})
        .symlink("y", "z", xattrs={b"user.no": b"1"}),
    "odd names": LayerTar().add(b"\xff\xfe\n", data=b"1").add("+").add("-").add("n" * 255)
        .add("/".join(["d" * 200] * 15)).symlink("long", "t" * 4000),
    "sticky": LayerTar().directory("tmp", mode=0o1777).add("suid", mode=0o6711),
}  # fmt: skip


def alpine(samples: Path) -> list[bytes]:
    """A real base layer, and one that deletes, and hides a whole directory of it."""
    tar = gzip.decompress((samples / "alpine.estargz.tar.gz").read_bytes())
    upper = LayerTar().add("etc/.wh.passwd").add("bin/.wh..wh..opq").add("bin/new", data=b"new")
    return [tar, upper.tar()]


# --- generated stacks --------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ATTRIBUTES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([0o755, 0o644, 0o4711, 0o1777, 0]),
        "uid": st.sampled_from([0, 1, 70_000]),
        "mtime_ns": st.sampled_from([0, 1, 10**18 + 5]),
        "xattrs": st.dictionaries(
            st.sampled_from([b"user.a", b"user.b", b"security.c"]), st.binary(max_size=4)
        ),
    }
)


ENTRIES = st.one_of(
    st.tuples(st.just("file"), PATHS, st.sampled_from([0, 1, 5000, 9000]), ATTRIBUTES),
    st.tuples(st.sampled_from(["dir", "whiteout", "opaque"]), PATHS, st.none(), ATTRIBUTES),
    st.tuples(st.just("dir"), PATHS, st.none(), ATTRIBUTES),
    st.tuples(st.just("link"), PATHS, PATHS, ATTRIBUTES),
    st.tuples(
        st.just("symlink"),
        PATHS,
        st.sampled_from(["a", "../b", "/c/d", "nowhere", "../../a/b"]),
        ATTRIBUTES,
    ),
    st.tuples(st.just("device"), PATHS, st.sampled_from([(0, 0), (1, 3)]), ATTRIBUTES),
)


def layer_of(entries: Sequence[tuple[str, str, Any, dict[str, Any]]]) -> bytes:
    layer = LayerTar()
    for kind, path, what, attributes in entries:
        parent, _, name = f"/{path}".rpartition("/")
        if kind == "file":
            layer.add(path, data=b"y" * what, **attributes)
        elif kind == "dir":
            layer.directory(path + "/", **attributes)
        elif kind == "link":
            layer.link(path, what, **attributes)
        elif kind == "symlink":
            layer.add(path, b"2", target=what, **attributes)
        elif kind == "device":
            layer.add(path, b"3", device=what, **attributes)
        else:
            layer.add(f"{parent}/.wh.{name if kind == 'whiteout' else '.wh..opq'}")
    return layer.tar()
