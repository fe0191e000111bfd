"""Packages of npm, installed under target/ without touching the machine; see pypi.py."""

import os
import pathlib
import shutil
import subprocess
import sys

import pypi

SETTINGS = ["--no-audit", "--no-fund", "--no-update-notifier", "--no-package-lock", "--ignore-scripts",
            "--loglevel=error"]


def node(*arguments):
    """The Node that tools/node finds or installs."""
    command = [sys.executable, str(pypi.ROOT / "tools/node"), *arguments]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode != 0:
        sys.exit(answer.returncode)
    return answer.stdout.strip()


def npm_of(program):
    """The command that runs the npm of this Node; None when it has none, as in some distributions."""
    folder = pathlib.Path(program).resolve().parent
    # The Python package has npm, but not the link to it that works.
    script = folder.parent / "lib/node_modules/npm/bin/npm-cli.js"
    if script.exists():
        return [program, str(script)]
    found = shutil.which("npm", path=os.path.dirname(program)) or shutil.which("npm")
    return found and [found]


def fill(fresh, package):
    """Installs what the file `package`, a package.json, names into `fresh`."""
    program = os.environ.get("SPILLWAY_NODE") or node()
    npm = npm_of(program)
    if npm is None:
        program = node("--fetched")
        npm = npm_of(program)
    shutil.copy(package, fresh / "package.json")
    # npm looks for a Node of its own on PATH.
    path = os.pathsep.join([os.path.dirname(program), os.environ.get("PATH", os.defpath)])
    answer = subprocess.run(
        [*npm, "install", *SETTINGS], cwd=fresh, env=dict(os.environ, PATH=path),
        stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False,
    )
    if answer.returncode != 0:
        sys.exit("npm could not install what %s names" % package)
