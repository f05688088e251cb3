"""Who a container's process is, by the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fs import rootdir
from fs.format.errors import NotFoundError, UsageError

_MAX_FILE = 4 << 20
_MAX_ID = (1 << 32) - 2


class User(NamedTuple):
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def find_user(root: int, text: str) -> User:
    """The user that "USER[:GROUP]" means in the tree of descriptor `root`; "" is root.

    Both are names or numbers; a number needs no entry. Without a group, the
    user's own and those that list him as a member are taken. NotFoundError.
    """
    wanted, _, group = text.partition(":")
    entry = _passwd_entry(root, wanted or "0")
    if entry is None:
        user, name = User(_number(wanted or "0", "user")), ""
    else:
        name, uid, gid, home = entry
        user = User(uid, gid, (), home or "/")
    if group:
        return user._replace(gid=_group_number(root, group))
    return user._replace(groups=_memberships(root, name) if name else ())


def _passwd_entry(root: int, wanted: str) -> tuple[str, int, int, str] | None:
    """The first line whose name or, for a number, whose uid is wanted."""
    by_number = None
    for fields in _lines(root, "/etc/passwd"):
        if len(fields) < 6 or not (fields[2].isdecimal() and fields[3].isdecimal()):
            continue
        entry = (fields[0], _number(fields[2], "user"), _number(fields[3], "group"), fields[5])
        if fields[0] == wanted:
            return entry
        if fields[2] == wanted and by_number is None:
            by_number = entry
    return by_number


def _group_number(root: int, wanted: str) -> int:
    for fields in _lines(root, "/etc/group"):
        if len(fields) >= 3 and fields[0] == wanted and fields[2].isdecimal():
            return _number(fields[2], "group")
    return _number(wanted, "group")


def _memberships(root: int, name: str) -> tuple[int, ...]:
    return tuple(
        _number(fields[2], "group")
        for fields in _lines(root, "/etc/group")
        if len(fields) >= 4 and fields[2].isdecimal() and name in fields[3].split(",")
    )


def _lines(root: int, path: str) -> Iterator[list[str]]:
    try:
        content = rootdir.read_file(root, path, _MAX_FILE)
    except OSError:
        return
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        yield line.split(":")


def _number(text: str, kind: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise NotFoundError(f"the image has no {kind} named {text!r}")
    number = int(text[:20])
    if number > _MAX_ID:
        raise UsageError(f"{kind} number out of range: {text}")
    return number
