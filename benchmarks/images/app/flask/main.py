"""A small web application that answers one request of its own and says what it saw."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import yaml
from flask import Flask, render_template_string

settings = yaml.safe_load(Path("settings.yaml").read_text())
settings["greeting"] = os.environ["GREETING"]
app = Flask(__name__)


@app.get("/")
def front() -> str:
    """The only page."""
    return render_template_string("{{ greeting }} from {{ title }}", **settings)


answer = app.test_client().get("/")
print(
    f"{answer.text} (status {answer.status_code}, Flask {version('flask')}, "
    f"Python {platform.python_version()})",
    flush=True,
)
sys.stdin.read()  # a service lives until it is told to end; at a terminal: Ctrl-D
