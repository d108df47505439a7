import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_help_shows_every_target():
    phony = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.M)
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert re.findall(r"^  make ([a-z-]+) +\S", shown, re.M) == " ".join(phony).split()
