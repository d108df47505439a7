"""Write the images' lock files: every package with its version and the hashes of its files.

    python images/locks/lock.py

Resolves what ``setup.cfg`` asks for to the versions that are installed here, which the tests ran with. Writes, beside this file,
``torch.lock`` (torch, torchvision and what they alone need), ``requirements.lock`` (everything else), ``kfp.lock`` (KFP and what it
alone needs: the executor in a pod needs none of that, ``medmark submit`` and ``reconcile`` in a pod do) and ``build.lock`` (for packages
without a wheel).
Needs ``uv``.
"""

from __future__ import annotations

import configparser
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

HERE = Path(__file__).parent
RESOLVE = ["uv", "pip", "compile", "-", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
FORM = ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
# packages of which only torch makes use, by the start of their names
WITH_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")


def required() -> list[str]:
    """What medmark needs at run time."""
    config = configparser.ConfigParser()
    config.read(HERE.parents[1] / "setup.cfg")
    lines = (line.strip() for line in config["options"]["install_requires"].splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def resolve(requirements: list[str]) -> list[str]:
    """Returns a block of text for each package, ``name==version`` with its hashes."""
    constraints = HERE.parents[1] / "build" / "installed.txt"
    constraints.parent.mkdir(exist_ok=True)
    installed = {d.metadata["Name"]: d.version for d in distributions()}
    constraints.write_text("".join(f"{n}=={v}\n" for n, v in sorted(installed.items()) if n != "medmark"))
    command = [*RESOLVE, *FORM, "--constraint", str(constraints)]
    done = subprocess.run(command, input="\n".join(requirements), check=True, stdout=subprocess.PIPE, text=True)
    return re.split(r"\n(?=\S)", done.stdout.strip())


def main() -> None:
    wanted = required()
    packages = resolve([line for line in wanted if not line.startswith("kfp")])
    others = {package.split("==")[0] for package in packages}
    locks = {
        "torch.lock": [package for package in packages if WITH_TORCH.match(package)],
        "requirements.lock": [package for package in packages if not WITH_TORCH.match(package)],
        "kfp.lock": [package for package in resolve(wanted) if package.split("==")[0] not in others],
        "build.lock": resolve(["setuptools", "wheel"]),
    }
    for name, blocks in locks.items():
        (HERE / name).write_text("\n".join(blocks) + "\n")
        print(f"{name}: {len(blocks)} packages")


if __name__ == "__main__":
    main()
