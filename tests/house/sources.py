"""The repository's own Python files, parsed once."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("fs", "nydusify", "runner", "snapshotter")
OURS = (*PACKAGES, "tests", "benchmarks")


def tracked_files(*patterns: str) -> list[Path]:
    """Files that git tracks or would track, so that build output never counts."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    names = [name for name in listed.stdout.split("\0") if name]
    return sorted(path for name in names if (path := REPOSITORY / name).is_file())


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted module name → syntax tree, for everything in Python here."""
    return {module_name(path): ast.parse(path.read_text()) for path in tracked_files("*.py")}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Absolute names that `module` imports anywhere, `a.b` for both forms of import."""
    found: set[str] = set()
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{module}:{node.lineno}: relative import")
            origin = node.module or ""
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                found.add(name if name in modules() else origin)
    return frozenset(found)
