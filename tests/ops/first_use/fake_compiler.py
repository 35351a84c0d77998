"""A C++ compiler that takes no time, for tests of who compiles, when and what is kept."""

import json
import sys
from pathlib import Path

# Notes what it was given. "Compiles" each source to its stamp and "links" them, or refuses.
PROGRAM = """#!{python} -IS
import json, os, sys
arguments = sys.argv[1:]
if "--version" in arguments or "-dumpversion" in arguments:
    print("fake 1.0")
    sys.exit()
with open({notes!r}, "a") as notes:
    seen = {{"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}}
    notes.write(json.dumps(seen) + chr(10))
if {refusal!r}:
    sys.exit({refusal!r})
out = arguments[arguments.index("-o") + 1]
stamps = [a.partition("=")[2] for a in arguments if a.startswith("-DFTBENCH_STAMP=")]
with open(out, "w") as made:
    made.write("ftbench-stamp:" + (stamps or [{stamp!r}])[0] + ":")
"""


class FakeCompiler:
    """An executable at ``path``; with ``refusal`` it says that and fails."""

    def __init__(self, folder: Path, stamp: str) -> None:
        self.path, self._notes, self._stamp = folder / "fake-c++", folder / "notes.jsonl", stamp
        self.accept()

    def accept(self) -> None:
        self.refuse("")

    def refuse(self, text: str) -> None:
        program = PROGRAM.format(
            python=sys.executable, notes=str(self._notes), refusal=text, stamp=self._stamp
        )
        self.path.write_text(program)
        self.path.chmod(0o755)

    def calls(self) -> list[dict]:
        if not self._notes.exists():
            return []
        return [json.loads(line) for line in self._notes.read_text().splitlines()]
