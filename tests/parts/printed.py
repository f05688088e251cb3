"""The examples that a command's help prints, as a shell takes them."""

from __future__ import annotations

import re

_SECTION = re.compile(r"^examples?:\n((?:  +\S.*\n?)+)", re.MULTILINE)


def printed_examples(text: str) -> list[str]:
    """The command lines of its one section, those that go on in the next line joined."""
    (section,) = _SECTION.findall(text)
    joined = section.replace("\\\n", "")
    return [re.sub(" {2,}", " ", line.strip()) for line in joined.splitlines()]
