"""The file of a measurement: JSON lines, each written when what it tells is done.

The first line, "head", says what was asked for, and where and by what it was measured.
"format" lines tell of conversions, "run" lines of runs, "failure" lines of what went
wrong, and "end" that nothing is missing. "outdated" says that runs of some modes by other code
do not count any more, though they stay in the file. A file without an end is gone on with by who
asks for the same, a last line that is not whole is cut off, and "resumed" says by what
the lines after it were measured.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]

#: What makes figures comparable: of the head, beside what was asked for.
SAME = ("code", "builds", "processor", "cores", "kernel", "python", "unpigz", "versions")


class Key(NamedTuple):
    """Which run: what was done, of which image, by which mode, over which network, and when."""

    kind: str
    image: str
    mode: str
    network: str
    repeat: int


def key_of(line: Mapping[str, Any]) -> Key:
    return Key(*(line[name] for name in Key._fields))


def alone(line: Mapping[str, Any], cores: int) -> bool:
    """Whether a conversion had the processors for itself, as far as the load tells."""
    return bool(line.get("load", cores + 1) <= cores)


class Records:
    """The lines of one measurement. `path` None: of one that is only read, or kept nowhere."""

    def __init__(self, lines: list[Line], path: Path | None = None) -> None:
        self.lines = lines
        self._path = path

    @property
    def head(self) -> Line:
        return self.lines[0]

    @property
    def heads(self) -> list[Line]:
        """The first line and those of going on: by what all the others were measured."""
        return [self.head, *self.of("resumed")]

    @property
    def last_head(self) -> Line:
        return self.heads[-1]

    @property
    def complete(self) -> bool:
        return bool(self.lines[-1]["record"] == "end")

    def of(self, record: str, **where: str) -> Iterator[Line]:
        """Lines of one record type whose fields are as given."""
        measured = record in ("run", "failure")
        for line in (run for run, _ in self._measured()) if measured else self.lines:
            if line["record"] == record and all(line.get(n) == v for n, v in where.items()):
                yield line

    def done(self) -> set[Key]:
        return {key_of(line) for line in self.of("run")}

    def outdate(self, modes: Collection[str]) -> None:
        """Let no run of these modes count that was made by other code than the last head's."""
        code = self.last_head.get("code")
        if any(by != code and line["mode"] in modes for line, by in self._measured()):
            self.add("outdated", modes=sorted(modes), code=code)

    def _measured(self) -> Iterator[tuple[Line, str | None]]:
        """Lines of runs and failures that count, and the code that made them."""
        kept: list[tuple[Line, str | None]] = []
        code = self.head.get("code")
        for line in self.lines:
            match line["record"]:
                case "head" | "resumed":
                    code = line.get("code")
                case "run" | "failure":
                    kept.append((line, code))
                case "outdated":
                    kept = [
                        (run, by) for run, by in kept
                        if by == line["code"] or run["mode"] not in line["modes"]
                    ]  # fmt: skip
        yield from kept

    def add(self, record: str, **fields: object) -> Line:
        """Write a line, so that it stays written."""
        line: Line = {"record": record, **fields}
        self.lines.append(line)
        if self._path:
            with self._path.open("a") as out:
                out.write(json.dumps(line) + "\n")
                out.flush()
                os.fsync(out.fileno())
        return line


def load(path: Path) -> Records:
    """ValueError names the line that is none, unless it is the last and not ended."""
    text = path.read_text()
    whole, _, _ = text.rpartition("\n")
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}:{number}: not a line of JSON") from None
    if not lines or lines[0].get("record") != "head":
        raise ValueError(f"{path}: not the record of a measurement")
    return Records(lines, path)


def resume_or_begin(path: Path, head: Line, *, mix: bool = False) -> tuple[Records, bool]:
    """The measurement that was interrupted, if the same was asked for; else a new one.

    `head["asked"]` decides. ValueError if it is the same, but measured by other code or elsewhere
    (`SAME`), unless `mix`. What was there before is kept as FILE.before.
    """
    if path.exists():
        try:
            old = load(path)
        except ValueError:
            old = None
        if old and not old.complete and old.head["asked"] == head["asked"]:
            if (changed := differences(old, head)) and not mix:
                raise ValueError(
                    f"{path} was begun with another {', '.join(changed)} (commit "
                    f"{old.last_head['commit']}): --mix goes on all the same, --fresh begins anew"
                )
            _cut(path)
            old.add(
                "resumed", **{name: head[name] for name in head if name not in ("asked", "seed")}
            )
            return old, True
        set_aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = Records([], path)
    records.add("head", **head)
    return records, False


def differences(old: Records, head: Line) -> list[str]:
    """What keeps figures of `head` from being compared with those of `old`."""
    return [name for name in SAME if old.last_head.get(name) != head.get(name)]


def take_up(kept: Path, path: Path, head: Line, *, mix: bool = False) -> None:
    """Let the measurement kept at one place go on at another, if it can and none is there."""
    if path.exists() or not kept.exists():
        return
    old = load(kept)
    same = not old.complete and old.head["asked"] == head["asked"]
    if same and (mix or not differences(old, head)):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, path)


def set_aside(path: Path) -> None:
    if path.exists():
        path.replace(path.with_name(path.name + ".before"))


def _cut(path: Path) -> None:
    """Leave whole lines only."""
    data = path.read_bytes()
    with path.open("rb+") as file:
        file.truncate(data.rfind(b"\n") + 1)
