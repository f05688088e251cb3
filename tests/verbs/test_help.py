"""Every verb explains itself, with examples that its own parser takes."""

from __future__ import annotations

import shlex

import pytest

from nydusify.cli import COMMANDS, _joined, main, parser
from tests.parts.printed import printed_examples

NAMES = [command.name for command in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: nydusify {name}")
    lines = [shlex.split(line) for line in printed_examples(text)]
    own = [words[1:] for words in lines if words[0] == "nydusify"]
    assert own, "no example"
    for words in own:
        assert {words[0], name} in ({name}, {"pack", "build"})
        parser().parse_args(_joined(words))
