"""Capabilities by name, and the set that containers get unless told otherwise (docker's)."""

from __future__ import annotations

from collections.abc import Iterable

from fs.format.errors import UsageError

NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
DEFAULT = frozenset(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


def chosen(add: Iterable[str], drop: Iterable[str]) -> int:
    """The bit mask for `--cap-add` and `--cap-drop`; ALL means every one. UsageError."""
    added, dropped = _names(add), _names(drop)
    wanted = set(DEFAULT)
    if "ALL" in dropped:
        wanted = set()
    if "ALL" in added:
        wanted = set(NAMES)
    wanted |= added & set(NAMES)
    wanted -= dropped - added if "ALL" in dropped else dropped
    return mask(wanted)


def mask(names: Iterable[str]) -> int:
    return sum(1 << NAMES.index(name) for name in names)


def _names(texts: Iterable[str]) -> set[str]:
    names = {text.upper().removeprefix("CAP_") for text in texts}
    for name in names - set(NAMES) - {"ALL"}:
        raise UsageError(f"unknown capability: {name}")
    return names


def permitted() -> int:
    """The mask that this process may use at all."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapPrm:"):
                return int(line.split()[1], 16)
    return 0
