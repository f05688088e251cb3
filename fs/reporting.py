"""Standard output as a command's caller sees it: all of it was taken, or the exit code says so."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from fs.format.errors import StorageError

TYPE_CHECKING = False  # type checkers take it for typing's
if TYPE_CHECKING:
    from typing import NoReturn

#: What a shell says of a program that SIGPIPE has ended.
_PIPE_CLOSED = 128 + 13
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def reporting(program: str, run: Callable[[], int]) -> int:
    """The exit code of `run`, once standard output has taken everything.

    Who reads only the beginning (`| head`) is told of no error.
    """
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        code = _PIPE_CLOSED
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        print(f"{program}: standard output: {error.strerror}", file=sys.stderr)
        code = StorageError.exit_code
    # What is left in the buffer would be tried once more at the very end.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def leave(code: int) -> NoReturn:
    """End this process, whose output is out: nothing in it is taken apart, which takes a while."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os._exit(code)
