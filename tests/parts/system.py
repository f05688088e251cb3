"""A system small enough for containers of tests: Debian's static busybox under all its names."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import subprocess
import tarfile

PLAIN = (
    *("bin", "dev", "etc", "etc/network", "etc/network/if-up.d", "etc/opt", "home", "lib", "media"),
    *("mnt", "opt", "run", "sbin", "srv", "usr", "usr/bin", "usr/lib", "usr/sbin", "usr/share"),
    "var",
)
DIRECTORIES = dict.fromkeys(PLAIN, 0o755) | {
    "proc": 0o555,
    "root": 0o700,
    "sys": 0o555,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"
    b"daemon:x:2:2:daemon:/sbin:/sbin/nologin\n"
    b"mail:x:8:12:mail:/var/mail:/sbin/nologin\n"
    b"guest:x:405:100:guest:/dev/null:/sbin/nologin\n"
    b"nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": b"root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\n"
    b"adm:x:4:root,daemon\nmail:x:12:mail\nusers:x:100:games\nnobody:x:65534:\n",
    "etc/hosts": b"127.0.0.1 localhost\n",
    "etc/motd": b"Welcome.\n",
    "etc/network/if-up.d/dad": b"#!/bin/sh\n",
    "etc/profile": b"umask 022\n",
    # What no program reads; of several files the kernel reads only those that lie near others.
    "lib/libcrypto.so.1.1": random.Random("crypto").randbytes(2_700_000),
    **{f"usr/lib/{n}.so": random.Random(n).randbytes(500_000) for n in range(8)},
}


def system_layer() -> bytes:
    """A gzip layer with it; the same bytes for the same busybox."""
    busybox = shutil.which("busybox")
    assert busybox
    listed = subprocess.run([busybox, "--list-full"], check=True, capture_output=True, text=True)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in sorted(DIRECTORIES.items()):
            _add(tar, name, tarfile.DIRTYPE, mode)
        with open(busybox, "rb") as program:
            _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, program.read())
        for name, content in FILES.items():
            _add(tar, name, tarfile.REGTYPE, 0o644, content)
        for name in sorted(set(listed.stdout.split()) - {"bin/busybox", "linuxrc"}):
            _add(tar, name, tarfile.SYMTYPE, 0o777, target="/bin/busybox")
    return gzip.compress(raw.getvalue(), 6, mtime=0)


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"", target: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 1_700_000_000
    entry.size, entry.linkname = len(content), target
    tar.addfile(entry, io.BytesIO(content))
