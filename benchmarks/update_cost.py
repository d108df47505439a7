"""What an update costs beside a full marking, at 20,000 images.

Marks a data set of phantoms, then makes releases of drops that change 1 % and 5 % of it: six parts in ten added, three
changed, one withdrawn. An update's time is that of the whole command; a full marking's is the one in its verdict, which leaves
out what Python takes to start, so the share is not flattered.

python benchmarks/update_cost.py --work WORK [--images 20000]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from marking import machine
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release

RESULT = Path(__file__).parent / "results" / "update_cost.json"
SHARES = (0.01, 0.05)
PARTS = (0.6, 0.3)  # added, changed; the rest withdrawn


def timed(*arguments: str) -> float:
    """Seconds of a medmark command; exit code 3 (a verdict other than owned) is no failure here."""
    started = time.monotonic()
    call = [sys.executable, "-c", "from medmark.pipelines.cli import main; main()", *arguments]
    code = subprocess.run(call, check=False).returncode
    if code not in (0, 3):
        raise SystemExit(f"medmark {' '.join(arguments[:2])} ended with {code}")
    return round(time.monotonic() - started, 1)


def make_drop(raw: Path, fresh: Path, drop: Path, changes: int) -> dict[str, int]:
    """A drop against ``raw``, with images of ``fresh`` as what is new."""
    shutil.rmtree(drop, ignore_errors=True)
    added, changed = (round(part * changes) for part in PARTS)
    # by what follows the class's letter, so that both classes take turns
    old, new = (sorted(folder.rglob("*.png"), key=lambda path: path.name[1:]) for folder in (raw, fresh))
    step = len(old) // changes
    for number, image in enumerate(new[: added + changed]):
        # a changed image keeps its name and class, so it takes the place of one of the same class
        name = f"{image.parent.name}/new-{image.name}"
        if number >= added:
            mates = [path for path in old if path.parent.name == image.parent.name]
            name = mates[(number - added) * step // 2].relative_to(raw).as_posix()
        (drop / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, drop / name)
    stay = {path.relative_to(drop) for path in drop.rglob("*.png")}
    gone = [name.as_posix() for name in (path.relative_to(raw) for path in old[1::step]) if name not in stay]
    gone = gone[: changes - added - changed]
    (drop / "withdrawn.csv").write_text("".join(f"{line}\n" for line in ("path", *gone)))
    return {"added": added, "changed": changed, "withdrawn": len(gone)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="scratch folder; a finished marking in it is used again"
    )
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    work, raw = options.work, options.work / "raw"
    if not raw.exists():
        make_phantoms(raw, count=options.images, seed=0)
        make_phantoms(work / "fresh", count=options.images // 10, seed=1)
    command = ["run", "mark-release", "--profile", "smoke", "--seed", "0", "--name", "phantoms"]
    if not (work / "marked" / "verdict.json").exists():
        timed(*command, "--data", str(raw), "--out", str(work / "marked"))
    marked = json.loads((work / "marked" / "verdict.json").read_bytes())
    full_seconds = marked["seconds"]["total"]
    updates = []
    for share in SHARES:
        drop, out = work / f"drop-{share:g}", work / f"updated-{share:g}"
        changes = make_drop(raw, work / "fresh", drop, round(share * options.images))
        shutil.rmtree(out, ignore_errors=True)
        spent = timed("run", "update-release", str(work / "marked"), "--data", str(drop), "--out", str(out))
        verdict = json.loads((out / "verdict.json").read_bytes())
        numbers = ("wsr", "clean_rate", "delta_p", "queries", "trained_on", "test_accuracy")
        updates.append(
            {
                "changed_share": share,
                **changes,
                "seconds": spent,
                "share_of_full_marking": round(spent / full_seconds, 4),
                "verdict": verdict["verdict"],
                "newly_marked": verdict["change"]["marked"],
                **{name: verdict["model"][name] for name in numbers},
            }
        )
    result = {
        "data": f"phantoms, {options.images} images, seed 0, profile smoke",
        "release_digest": Release(work / "marked" / "release").digest,
        "machine": machine(),
        "full_marking": {"seconds": full_seconds, "verdict": marked["verdict"], "wsr": marked["malicious"]["wsr"]},
        "updates": updates,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
