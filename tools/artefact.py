"""Prints the path of the executable in Cargo's `--message-format=json` output, read from standard input."""

import json
import sys

programs = [
    message["executable"]
    for message in map(json.loads, sys.stdin)
    if message.get("reason") == "compiler-artifact" and message.get("executable")
]
if len(programs) != 1:
    sys.exit("expected one executable, found %d" % len(programs))
print(programs[0])
