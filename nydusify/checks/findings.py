"""What is wrong with an image: a list of lines, each under the rule that it breaks."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from fs.format.errors import Failure, FormatError, NotFoundError, VerifyError

RULES = ("manifest", "bootstrap", "blobs", "filesystem")
#: Lines of one rule; the rest is only counted.
_MOST = 100


class Findings:
    """Whether each rule was tried, and what broke it. `notes` say what is odd but not wrong."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.problems: dict[str, list[str]] = {rule: [] for rule in RULES}
        self.notes: list[str] = []
        self.count = 0
        self._first: type[Failure] = VerifyError

    def add(self, rule: str, what: str, kind: type[Failure] = VerifyError) -> None:
        if not self.count:
            self._first = kind
        self.count += 1
        if len(self.problems[rule]) < _MOST:
            self.problems[rule].append(what)

    def expect(self, rule: str, what: str, found: object, expected: object) -> None:
        """A problem unless both are equal."""
        if found != expected:
            self.add(rule, f"{what}: {_short(found)}, expected {_short(expected)}")

    def rule(self, name: str) -> _Trial:
        """Failures inside that are the image's fault are problems of this rule."""
        if name not in self.tried:
            self.tried.append(name)
        return _Trial(self, name)

    @property
    def ok(self) -> bool:
        return not self.count

    def failure(self, image: str) -> Failure:
        """All of it as one error, with the exit code of the first."""
        first = next(lines[0] for lines in self.problems.values() if lines)
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        named = first if first.startswith(f"{image}: ") else f"{image}: {first}"
        return self._first(f"{named}{more}")

    def lines(self) -> list[str]:
        """What is wrong, by rule."""
        return [line for lines in self.problems.values() for line in lines]

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "rules": {rule: self.problems[rule] for rule in self.tried},
            "problems": self.count,
            "notes": self.notes,
        }


class _Trial:
    def __init__(self, findings: Findings, rule: str) -> None:
        self._findings = findings
        self._rule = rule

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, FormatError | VerifyError | NotFoundError):
            return False
        self._findings.add(self._rule, error.message, type(error))
        return True


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:80]}…{text[-20:]}"
