"""Nothing heavy is imported before it is needed, so that starting is fast.

How fast is measured by ``python -m benchmarks.startup``; here the cause is tested, not the clock.
"""

import subprocess
import sys

import pytest

from benchmarks import startup
from tests.support import grid, write_runs

HEAVY = (
    *("torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow"),
    *("pydantic", "setuptools", "PIL", "jinja2"),
)
COMMAND = "import sys; sys.argv = ['ftbench', '{}']\nfrom ftbench.cli import main\n"
COMMAND += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"


@pytest.mark.parametrize(
    "code",
    [
        "import ftbench",
        "import ftbench.cli.app",
        "from ftbench import hookimpl, FtbenchError",
        COMMAND.format("--help"),
        COMMAND.format("--version"),
    ],
    ids=["import", "app", "names", "help", "version"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    report = f"{code}\nimport sys\nprint('heavy:', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("command", ["table", "status"])
def test_what_reads_records_alone_does_not_wait_for_torch(tmp_path, command):
    write_runs(tmp_path, grid({"a": [0.9, 0.91, 0.92], "b": [0.5, 0.6, 0.7]}))
    code = f"import sys; sys.argv = ['ftbench', {command!r}, {str(tmp_path)!r}]\n"
    code += "from ftbench.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "a" in done.stdout


def test_the_benchmark_of_starting_times_every_command(capsys):
    assert startup.main(["--turns", "1"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {name} " in out for name in startup.COMMANDS)


def test_every_public_name_is_there_and_listed():
    import ftbench

    for name in ftbench.__all__:
        assert getattr(ftbench, name).__doc__, name
        assert name in dir(ftbench)
    with pytest.raises(AttributeError, match="module 'ftbench' has no attribute 'absent'"):
        ftbench.absent  # noqa: B018 - the access itself is tested
