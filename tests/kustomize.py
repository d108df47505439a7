"""The manifests as kustomize puts them together, and the secrets that the script of the overlay kind makes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
OVERLAYS = sorted(path.parent.name for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))
KUBECTL = """#!/bin/sh
# a secret becomes a folder with a file a key
case "$*" in
    apply*) cat > /dev/null; exit 0 ;;
esac
shift 5; target="$SECRETS/$1"; mkdir -p "$target"; shift
for given; do
    case "$given" in
        --from-literal=*) pair=${given#--from-literal=}; printf %s "${pair#*=}" > "$target/${pair%%=*}" ;;
        --from-file=*=*) pair=${given#--from-file=}; cp "${pair#*=}" "$target/${pair%%=*}" ;;
        --from-file=*) cp "${given#--from-file=}" "$target/" ;;
    esac
done
"""


def hydrate(folder: Path) -> list[dict]:
    """All documents of a folder with a kustomization."""
    command = next((c for c in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(c[0])), None)
    if command is None:
        pytest.skip("neither kustomize nor kubectl is on the path: the manifests are NOT checked")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def make_secrets(script: Path, folder: Path, medmark: str) -> Path:
    """Runs ``secrets.sh`` with a stand-in for kubectl.

    Args:
        script: to run.
        folder: for the keys, the stand-in and what it gets.
        medmark: text of a program ``medmark``.

    Returns:
        A folder with a folder a secret and in it a file a key.
    """
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name, text in (("kubectl", KUBECTL), ("medmark", medmark)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    own = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SECRETS": str(folder / "secrets")}
    subprocess.run(
        ["sh", str(script), str(folder / "keys")], env=os.environ | own, check=True, capture_output=True, text=True
    )
    return folder / "secrets"
