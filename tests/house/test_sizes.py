"""Modules and functions stay of a size that one can hold in the head."""

from __future__ import annotations

import ast

from tests.house.sources import REPOSITORY, modules, tracked_files

MODULE_LINES = 500
FUNCTION_LINES = 70
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "shared", "stuff"}


def test_modules_are_short() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in tracked_files("*.py")
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES
    }
    assert long == {}


def test_functions_are_short() -> None:
    long = [
        f"{module}.{node.name}: {length}"
        for module, tree in modules().items()
        if not module.startswith("tests.")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert long == []


def test_modules_are_named_for_what_they_are() -> None:
    vague = [module for module in modules() if VAGUE & set(module.split("."))]
    assert vague == []


def test_modules_say_what_they_are_for() -> None:
    silent = [module for module, tree in modules().items() if not ast.get_docstring(tree)]
    assert silent == []


def test_package_heads_are_light() -> None:
    """A package's __init__ is a docstring, so that importing one part drags in no other."""
    heavy = [
        module
        for module, tree in modules().items()
        if (REPOSITORY / module.replace(".", "/") / "__init__.py").exists() and len(tree.body) != 1
    ]
    assert heavy == []
