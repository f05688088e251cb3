"""Images of hand-made trees, asked what their start reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fs.registry.config import ImageConfig
from fs.registry.platform import Platform
from nydusify.cli import main
from nydusify.images.opened import ImagePlace, open_image
from nydusify.startup.files import ImageFiles
from nydusify.startup.guess import guess
from nydusify.startup.wanted import Want

Content = str | bytes


@contextmanager
def image_files(root: Path, work: Path) -> Iterator[ImageFiles]:
    """The files of a directory, converted to an image."""
    words = ["convert", "--source", f"dir:{root}", "--target", f"oci:{work}/image:t"]
    assert main(words) == 0
    (work / "open").mkdir()
    with (
        open_image(ImagePlace(f"oci:{work}/image:t"), work / "open") as opened,
        opened.contents(work / "open") as contents,
    ):
        yield ImageFiles(opened.bootstrap, contents.read)


def write_tree(root: Path, files: Mapping[str, Content]) -> Path:
    """Files by path: a text beginning with "-> " is a link, one with "#!" a program."""
    for path, content in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            place.symlink_to(content[3:])
            continue
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(0o755 if place.read_bytes()[:2] in (b"#!", b"\x7fE") else 0o644)
    return root


def wants(
    root: Path, work: Path, command: Sequence[str], env: Sequence[str] = (), workdir: str = "/"
) -> list[Want]:
    """The guess for an image of `root` that runs `command`."""
    config = ImageConfig(Platform("linux", "amd64"), env=list(env), cmd=list(command),
                         workdir=workdir)  # fmt: skip
    with image_files(root, work) as files:
        return guess(files, config)


def paths(found: Sequence[Want]) -> list[str]:
    return [want.file.path for want in found]


def link(target: Path, *options: str, source: str = "int f(void) { return 1; }") -> None:
    """A shared library or program by gcc, without the C library."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "gcc",
        "-nostdlib",
        "-Wl,--no-as-needed",
        "-o",
        str(target),
        "-x",
        "c",
        "-",
        "-x",
        "none",
        *options,
    ]
    subprocess.run(command, input=source.encode(), check=True)
