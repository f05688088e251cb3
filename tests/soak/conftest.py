"""How long the soak lasts."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=int, default=10, help="how long it lasts, 3 or more")
