import sys

import pytest
from medmark.pipelines import cli


@pytest.fixture
def medmark(monkeypatch, capsys):
    """Runs the command in this process; gives its exit code, output and error output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    return run
