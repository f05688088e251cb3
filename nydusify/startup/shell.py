"""Shell scripts: the commands that an entry point runs, and the files that it reads in."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_SCRIPT = 256 << 10
_MOST_COMMANDS = 100

#: Run without a program, though there may be one of that name.
_WORDS = (
    ". : [ [[ alias bg break builtin cd command continue declare echo eval exec exit export false"
    " fg getopts hash jobs kill let local popd printf pushd pwd read readonly return set shift"
    " shopt source test time times trap true type typeset ulimit umask unalias unset wait"
    " if then else elif fi for while until do done case esac in function select { } !"
)
_BUILTINS = frozenset(_WORDS.split())
#: After these the next word is a command again.
_LEADERS = frozenset(("if", "then", "else", "elif", "while", "until", "do", "!", "{", "exec",
                      "command", "time", "eval"))  # fmt: skip
_SEPARATORS = re.compile(r"[;|&()]+|`")
_REDIRECTION = re.compile(r"\d*[<>]")
_COMMENT = re.compile(r"(^|\s)#.*")
_SUBSTITUTION = re.compile(r"\$\(|`")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=\S*")
_SET = re.compile(r"^\s*(?:export\s+|readonly\s+|local\s+)?([A-Za-z_]\w*)=([^;&|#]*)")
#: A script's own path, and commands that make directories of paths.
_SELF = re.compile(r"\$(?:0|\{0\}|BASH_SOURCE|\{BASH_SOURCE(?:\[0\])?\})")
_DIRNAME = re.compile(r"(?:\$\(|`)\s*dirname\s+(?:--\s+)?[\"']?([^\"'`()\s]+)[\"']?\s*(?:\)|`)")
_CD = re.compile(
    r"(?:\$\(|`)\s*cd\s+(?:-\w\s+)?[\"']?([^\"'`()$\s;]+)[\"']?[^`();&]*(?:&&|;)\s*pwd[^`()]*(?:\)|`)"
)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::?[-=]([^${}]*))?\})")
#: They say where the program of that name is.
_LOCATORS = ("which", "type", "command")


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Follow a script file, or the text after -c."""
    words = list(words)
    for position, word in enumerate(words):
        if word.startswith("-") and word[1:2] != "-" and "c" in word:
            for text in words[position + 1 : position + 2]:
                _follow(start, text, depth)
            return
        if not word.startswith(("-", "+")):
            file = start.files.file(start.absolute(word))
            if file is not None:
                start.wanted.add(file, "script")
                known = {**start.environment, "0": start.absolute(word)}
                _follow(start, start.files.text(file, _SCRIPT), depth, known)
            return


def _follow(start: Start, text: str, depth: int, variables: dict[str, str] | None = None) -> None:
    """`variables` are those that are known; what the script sets is added."""
    known = dict(start.environment) if variables is None else variables
    for count, words in enumerate(commands(text, known)):
        if count >= _MOST_COMMANDS:
            return
        if words[0] in (".", "source") and len(words) > 1:
            file = start.files.file(start.absolute(words[1]))
            if file is not None and start.wanted.add(file, "script"):
                _follow(start, start.files.text(file, _SCRIPT), depth + 1, known)
        elif words[0] in _LOCATORS:
            start.want_command(words[-1:], "command of a script", depth + 1)
        elif words[0] not in _BUILTINS:
            start.want_command(words, "command of a script", depth + 1)


def commands(text: str, variables: dict[str, str] | None = None) -> Iterator[list[str]]:
    """The words of each simple command that names its program, as far as a look can tell.

    `variables` are put in their places; plain assignments add to them as they are met.
    """
    known = {} if variables is None else variables
    for line in text.replace("\\\n", " ").splitlines():
        if _DIRNAME.search(line):
            yield ["dirname"]
        line = _COMMENT.sub("", _filled(line, known))
        if (match := _SET.match(line)) and "$" not in match[2] and "`" not in match[2]:
            known[match[1]] = "".join(_split(match[2])[:1])
        for part in _SEPARATORS.split(_SUBSTITUTION.sub(";", line)):
            words = _split(part)
            if len(words) == 1 and (found := _SET.fullmatch(words[0])) and found[2]:
                known.setdefault(found[1], found[2])
            if words[:2] == ["command", "-v"]:
                words = ["which", *words[2:]]
            while words and (words[0] in _LEADERS or _ASSIGNMENT.fullmatch(words[0])):
                words = words[1:]
            if words and "$" not in words[0] and not words[0].startswith("-"):
                yield [word for word in words if "$" not in word and not _REDIRECTION.match(word)]


def _filled(line: str, known: Mapping[str, str]) -> str:
    """A line with the variables in it that are known, or have a default; and directories."""

    def value(match: re.Match[str]) -> str:
        found = known.get(match[1] or match[2], match[3])
        return match[0] if found is None else found

    if (own := known.get("0")) is not None:
        line = _SELF.sub(lambda _: own, line.replace("${0%/*}", posixpath.dirname(own)))
    line = _VARIABLE.sub(value, line)
    line = _DIRNAME.sub(lambda match: posixpath.dirname(match[1]) or ".", line)
    return _CD.sub(lambda match: posixpath.normpath(match[1]), line)


def _split(part: str) -> list[str]:
    try:
        return shlex.split(part)
    except ValueError:  # a quotation that goes on
        return part.replace('"', " ").replace("'", " ").split()
