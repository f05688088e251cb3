"""The errors that a user can cause or meet, as one tree.

Every one of them is a single line that says what is wrong and where, and has
an exit code that is the same in all our commands. Anything else that reaches
the top of a command is a bug of ours and may show its traceback.

    Failure                     1   (never raised itself)
    ├── UsageError              2   the command line or a configuration file is wrong
    ├── FormatError             3   a bootstrap, blob, layer or manifest is malformed or unsupported
    ├── VerifyError             4   bytes do not have the digest or size that was promised
    ├── NotFoundError           5   no such image, tag, blob, file, container
    ├── AccessError             6   refused: bad login, forbidden, missing privilege
    ├── UnreachableError        7   a server cannot be reached, or keeps failing
    ├── StorageError            8   local disk: full, read-only, I/O error
    ├── MountError              9   the kernel or the daemon refuses to mount or unmount
    └── PlainImageError        10   an ordinary OCI image where a Nydus image is needed

The module stands at the bottom of the import order, which is why it is here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

#: What cannot stand in a line on a terminal: control characters, some of which command it.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROL |= {ord("\t"): " ", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class Failure(Exception):
    """A failure with a one-line message; `exit_code` is what a command ends with.

    Control characters in it, which may come from an image or a server, are shown escaped.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        self.message = message.translate(_CONTROL)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class UsageError(Failure):
    exit_code = 2


class FormatError(Failure):
    """Malformed data. `where` names the object and, if known, the byte offset."""

    exit_code = 3

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{where}: {what}" if where else what)
        self.what = what
        self.where = where


class VerifyError(Failure):
    exit_code = 4


class NotFoundError(Failure):
    exit_code = 5


class AccessError(Failure):
    exit_code = 6


class UnreachableError(Failure):
    exit_code = 7


class StorageError(Failure):
    exit_code = 8


class MountError(Failure):
    exit_code = 9


class PlainImageError(Failure):
    exit_code = 10


_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_REFUSED = (errno.EACCES, errno.EPERM)


def local_failure(error: OSError, where: object) -> Failure:
    """An operating system error about local files as a Failure that begins with `where`."""
    message = f"{where}: {error.strerror or error}"
    if error.errno in _ABSENT:
        return NotFoundError(message)
    if error.errno in _REFUSED:
        return AccessError(message)
    return StorageError(message)


@contextmanager
def local_errors(where: object) -> Iterator[None]:
    """Operating system errors inside become Failures that begin with `where`.

    A reader of our output who has enough is no failure: that ends the command as a whole.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise local_failure(error, where) from error
