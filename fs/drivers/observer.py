"""Who counts what the kernel asks."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told of every request by opcode and FUSE inode; of a read also when it is done."""

    def asked(self, opcode: int, inode: int) -> None: ...
    def failed(self, opcode: int, inode: int) -> None: ...

    def read(self, inode: int, size: int, seconds: float) -> None:
        """A read was answered."""

    def begin_read(self, inode: int) -> tuple[int, float]:
        """A read waits: a ticket for `end_read`, and now."""

    def end_read(self, ticket: int) -> None: ...
