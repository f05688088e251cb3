"""Images of language runtimes."""

from __future__ import annotations

import os
import shutil

from benchmarks.images.recipe import PATH, Layer, Recipe, Run
from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Exit, Line

# VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted and effective.
_BIND_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

_PYTHON = Layer("python3", packages=("python3",))


def _python_name(tree: Tree) -> None:
    tree.link("usr/local/bin/python", "../../bin/python3")


PYTHON = Recipe(
    "python",
    (_PYTHON, Layer("its usual name", change=_python_name)),
    Run("stdin", Exit("^hello from 3"), ("python", "-"),
        stdin=b"import json, sys\nprint('hello from', json.dumps(sys.version_info[0]))\n"),
    {"Env": [PATH], "Cmd": ["python"]},
)  # fmt: skip


def _flask(tree: Tree) -> None:
    """Add the application, and delete and replace parts of the layers below.

    Leaves whiteouts (files and a whole directory), an opaque directory, replaced and
    re-moded files, a hard link, a symlink and a file capability.
    """
    root = tree.root
    tree.copy("main.py", "opt/app/main.py")
    tree.copy("settings.yaml", "opt/app/settings.yaml")
    os.link(root / "opt/app/main.py", root / "opt/app/main-again.py")
    tree.link("usr/local/bin/app", "../../../opt/app/main.py")
    server = tree.write("opt/app/serve", "#!/bin/sh\nexec python3 /opt/app/main.py\n", 0o755)
    os.setxattr(server, "security.capability", _BIND_CAPABILITY)

    shutil.rmtree(root / "usr/share/doc")
    shutil.rmtree(root / "usr/share/man")
    tree.write("usr/share/man/README", "Manual pages were taken out.\n")
    (root / "etc/debian_version").unlink()
    tree.write("etc/issue", "A demo image.\n")
    (root / "etc/issue.net").chmod(0o600)
    (root / "var/lib/app").mkdir()
    os.chown(root / "var/lib/app", 1000, 1000)


FLASK = Recipe(
    "flask",
    (
        _PYTHON,
        Layer("python3-flask python3-yaml", packages=("python3-flask", "python3-yaml")),
        Layer("the application, with deletions and replacements", change=_flask),
    ),
    Run("log", Line("status 200")),
    {
        "Env": [PATH, "GREETING=hello"],
        "Entrypoint": ["python3"],
        "Cmd": ["/opt/app/main.py"],
        "WorkingDir": "/opt/app",
    },
)

TENSORFLOW = Recipe(
    "tensorflow",
    (_PYTHON, Layer("tensorflow-cpu", wheels=("tensorflow-cpu",))),
    Run("arguments", Exit("^sum 6$"),
        ("python3", "-c", "import tensorflow as tf; "
         "print('sum', int(tf.reduce_sum(tf.constant([1, 2, 3]))))")),
    {"Env": [PATH, "TF_CPP_MIN_LOG_LEVEL=2"], "Cmd": ["python3"]},
)  # fmt: skip

PERL = Recipe(
    "perl",
    (Layer("perl", packages=("perl",)),),
    Run("stdin", Exit("^hello 3$"), ("perl", "-"),
        stdin=b"use strict; use warnings; use List::Util qw(sum); use Data::Dumper;\n"
        b"print 'hello ', sum(1, 2), \"\\n\";\n"),
    {"Env": [PATH], "Cmd": ["perl", "-de0"]},
)  # fmt: skip

NODE = Recipe(
    "node",
    (Layer("nodejs", packages=("nodejs",)),),
    Run("stdin", Exit("^hello linux$"), ("node", "-"),
        stdin=b"const os = require('os'); console.log('hello', os.platform());\n"),
    {"Env": [PATH], "Cmd": ["node"]},
)  # fmt: skip

RUBY = Recipe(
    "ruby",
    (Layer("ruby", packages=("ruby",)),),
    Run("stdin", Exit("^hello \\[1\\]$"), ("ruby", "-"),
        stdin=b"require 'json'; puts 'hello ' + JSON.generate([1])\n"),
    {"Env": [PATH], "Cmd": ["irb"]},
)  # fmt: skip

PHP = Recipe(
    "php",
    (Layer("php8.2-cli", packages=("php8.2-cli",)),),
    Run("stdin", Exit("^hello \\[1\\]$"), ("php",),
        stdin=b"<?php echo 'hello ' . json_encode([1]) . \"\\n\";\n"),
    {"Env": [PATH], "Cmd": ["php", "-a"]},
)  # fmt: skip
