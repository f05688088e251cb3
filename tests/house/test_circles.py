"""Modules import each other in no circle, also not by imports inside functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from tests.house.sources import imports_of, modules


def circles(names: Collection[str], targets: Callable[[str], Iterable[str]]) -> list[list[str]]:
    """The strongly connected components of more than one name (Tarjan's algorithm)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for target in targets(name):
            if target in names and target not in order:
                visit(target)
            if target in path:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == order[name]:
            circle = path[path.index(name) :]
            del path[-len(circle) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in names:
        if name not in order:
            visit(name)
    return found


def test_modules_import_each_other_in_no_circle() -> None:
    assert circles(set(modules()), imports_of) == []


def test_a_circle_would_be_seen() -> None:
    arrows = {"a": "b", "b": "cd", "c": "a", "d": "e", "e": "e", "f": "ab"}
    assert circles(arrows, lambda name: arrows[name]) == [["a", "b", "c"]]
