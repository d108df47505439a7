"""Keeps the verdict of a run among the results, with the machine's class.

python benchmarks/keep_verdict.py RUN benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from marking import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("result", type=Path, help="JSON to write")
    options = parser.parse_args()
    verdict = json.loads((options.run / "verdict.json").read_bytes())
    options.result.write_text(json.dumps({**verdict, "machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
