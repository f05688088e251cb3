"""Every verb explains itself, with examples that its own parser takes."""

from __future__ import annotations

import re
import shlex

import pytest

from nydusify.cli import COMMANDS, _joined, main, parser

NAMES = [command.name for command in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: nydusify {name}")
    section = text[text.index("\nexample") :].partition("\n\n")[0]
    examples = re.sub(r"(?: \\)?\n {4,}--", " --", section)
    lines = re.findall(r"^ +(?:[a-z-]+ +)?(nydusify [a-z].*)$", examples, re.MULTILINE)
    assert lines, "no example"
    for line in lines:
        parser().parse_args(_joined(shlex.split(line, comments=True)[1:]))
