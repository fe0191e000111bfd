"""Programs that come as Python packages, installed under target/ without touching the machine.

Installing means: pip unpacks the package into a fresh folder, the program in it is run once, and only then
the folder gets its final name in one step. Two that run at once each do the work, one of them wins, and
nobody ever sees half a program.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def say(text):
    """Tells the person; standard output is for the path alone."""
    print(text, file=sys.stderr, flush=True)


def version_of(program):
    """The (major, minor) that `program --version` reports, or None when it does not run."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # Node says v20.20.2, Envoy says .../1.40.0/Clean/RELEASE/BoringSSL after a hash.
    found = re.search(r"(?:^v|/)(\d+)\.(\d+)\.\d+", answer.stdout.strip())
    return (int(found[1]), int(found[2])) if found else None


def on_path(name, at_least):
    """The program on PATH when its version is `at_least`."""
    program = shutil.which(name)
    if program is None:
        return None
    version = version_of(program)
    if version is None or version < at_least:
        shown = "unknown" if version is None else "%d.%d" % version
        say("%s is version %s and %d.%d or later is needed: not used" % (program, shown, *at_least))
        return None
    return program


def installed(package, version, folder, program):
    """The path of `program` in the package, which is installed into target/`folder` when it is missing."""
    home = ROOT / "target" / folder
    binary = home / version / program
    if not binary.exists():
        install(package, version, home, program)
    if version_of(str(binary)) is None:
        sys.exit("%s does not run on this machine: remove %s, or name one that does" % (binary, home))
    return str(binary)


def install(package, version, home, program):
    """Installs the package into `home`/`version`."""
    say("installing %s %s with pip into %s (once)" % (package, version, home / version))

    def fill(fresh):
        pip(fresh, "--no-deps", "%s==%s" % (package, version))
        (fresh / program).chmod(0o755)

    in_one_step(home / version, program, fill)


def in_one_step(folder, proof, fill):
    """Makes `folder`, in which `proof` is then a file, with what `fill` puts into an empty one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = pathlib.Path(tempfile.mkdtemp(prefix=".installing-", dir=folder.parent))
    try:
        fill(fresh)
        if not (fresh / proof).exists():
            sys.exit("what was installed for %s has no %s" % (folder, proof))
        try:
            fresh.rename(folder)
        except OSError:
            # Another one was faster; what is there now is complete.
            if not (folder / proof).exists():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def pip(folder, *what):
    """Has pip unpack `what` into `folder`."""
    # A person's own pip settings must not turn this into a question or an error.
    settings = dict(os.environ, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_ROOT_USER_ACTION="ignore")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
               "--only-binary", ":all:", "--target", str(folder), *what]
    if subprocess.run(command, env=settings, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit("pip could not install %s" % " ".join(what))
