"""The index of a gzip file, made by a process of its own: `python -m` this FILE SPACING INDEX.

The library holds the interpreter while it decodes, so in our process nothing else would run.
The index is in the library's format, GZIDX. What it says of a damaged file is one line on
standard output, with exit code 1.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from fs.format.errors import FormatError

WINDOW = 32 << 10
_RAW = 1 << 20


def build_index(path: Path, spacing: int, index: Path) -> None:
    """Write the index of `path`, a point every `spacing` bytes of content; FormatError."""
    import indexed_gzip

    try:
        with closing(
            indexed_gzip.IndexedGzipFile(
                filename=str(path), spacing=spacing, window_size=WINDOW, readbuf_size=_RAW
            )
        ) as file:
            file.build_full_index()
            file.export_index(filename=str(index))
    except (OSError, EOFError) as error:
        raise FormatError(f"layer does not decompress: {error}", str(path)) from error


class IndexProcess:
    """The same in a process that runs until `finish` or `close`."""

    def __init__(self, path: Path, spacing: int, index: Path) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nydusify.references.gzip_index", path, str(spacing), index],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def finish(self) -> None:
        """Have the index whole; FormatError."""
        said, _ = self._process.communicate()
        if self._process.returncode:
            words = said.strip() or f"indexing ended with {self._process.returncode}"
            raise FormatError(words[:200], str(self._path))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


def _main() -> int:
    path, spacing, index = sys.argv[1:]
    try:
        build_index(Path(path), int(spacing), Path(index))
    except FormatError as error:
        print(error.what)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
