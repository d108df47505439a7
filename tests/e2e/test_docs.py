"""The commands of each guide, run as a user would run them: in one folder, in order, against real services."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kfp_api import KfpApi
from medmark.components.base.digests import file_sha256
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import publish
from medmark.components.delivery.submission_records import new_record, write_record
from medmark.components.storage.store import Store
from medmark.pipelines.services import DROPS, EVIDENCE, RELEASES

DOCS = Path(__file__).resolve().parents[2] / "docs"
SHIM = f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("tiny_medmark.py")} "$@"\n'
# it is installed already; it waits for a browser; the fixture does it; there is no cluster
NOT_RUN = ("pip install ", "mlflow ui ", "medmark down ", "kubectl ")
LIMIT = 1000  # seconds for a guide; measured: 150 on a processor with bfloat16, much more on others


def commands(guide: str) -> str:
    """The commands in a guide's blocks that name no language, except those that are not run."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / f"{guide}.md").read_text(), re.M | re.S)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines() if not line.startswith(NOT_RUN)]
    return "\n".join(lines) + "\n"


class Reader:
    """A user who follows guides in one folder.

    Attributes:
        folder: the user's working folder.
        environment: environment variables of the user's shell.
    """

    def __init__(self, folder: Path, services, warm: Path):
        self.folder, self.services = folder, services
        (folder / "bin").mkdir()
        (folder / "bin" / "medmark").write_text(SHIM)
        (folder / "bin" / "medmark").chmod(0o755)
        (folder / "services").symlink_to(services.folder)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MEDMARK_", "MLFLOW_", "KFP_"))},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "MEDMARK_KEY_PASSPHRASE": "correct horse battery",
            "KFP_INSECURE": "1",
            "WARM_PYTHON": str(warm / "python3"),
        }

    def run(self, script: str, **placeholders: str) -> str:
        """Runs commands and returns their output; fails at the first command that fails.

        Args:
            script: the commands, one per line.
            placeholders: what stands for a word of the guide, by that word.
        """
        for name in sorted(placeholders, key=len, reverse=True):
            script = re.sub(rf"\b{name}\b", str(placeholders[name]), script)
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def drop(self, name: str, seed: int) -> Path:
        """Makes a drop of twenty new images."""
        folder = self.folder / name
        for image in make_phantoms(self.folder / f"{name}-drawn", count=20, size=64, seed=seed).rglob("*.png"):
            target = folder / image.parent.name / f"{name}-{image.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(image, target)
        return folder


@pytest.fixture
def reader(runs, services, source, warm, tmp_path):
    """A user who has images and has marked them."""
    reader = Reader(tmp_path, services, warm)
    shutil.copytree(runs[0], tmp_path / "out")
    shutil.copytree(source, tmp_path / "raw")
    return reader


def digests(folder: Path) -> dict[str, str]:
    return {
        "DIGEST": Release(folder / "release").digest,
        "EVIDENCE_DIGEST": file_sha256(folder / "evidence" / "evidence.json"),
        "KEEP_DIGEST": file_sha256(folder / "keep" / "keep.json"),
    }


def test_publishing(reader, services):
    private = Store(**json.loads(services.credentials["evidence"].read_bytes()))
    private.upload(reader.folder / "raw", f"s3://{DROPS}/2026-11")
    export_suspect(reader.folder / "m.onnx")
    private.put(reader.folder / "m.onnx", f"s3://{EVIDENCE}/suspects/m.onnx")
    script = commands("publishing").replace("medmark up services", "medmark status services")  # they run already
    shown = reader.run(script, **digests(reader.folder / "out"))
    assert Release(reader.folder / "copy").digest == Release(reader.folder / "out" / "release").digest
    assert stat.S_IMODE((reader.folder / "evidence-copy").stat().st_mode) == 0o700
    assert "audit.html" in shown and not any((reader.folder / "cache" / "medmark").glob("*"))


def test_ci(reader, services, images):
    shutil.copy(images, reader.folder)
    shutil.rmtree(reader.folder / "out")
    clean = reader.folder / "clean"
    private = Store(**json.loads(services.credentials["evidence"].read_bytes()))
    ingest(reader.folder / "raw", clean, name="cxr", seed=1)
    publish(clean, f"s3://{DROPS}/ingested", private)
    drop = reader.drop("2026-11-20", seed=2)
    (drop / "_SUCCESS").touch()
    private.upload(drop, f"s3://{DROPS}/ci/{drop.name}")
    once, sweep, later = re.split(
        r"^(medmark reconcile (?:.*\\\n)*.*\n)", commands("ci").replace("/cxr", "/ci"), maxsplit=1, flags=re.M
    )
    reader.run(once, RAW="raw")
    shown = reader.run(once[once.index("export") : once.index("medmark publish-evidence")] + sweep * 2)
    assert re.search(r"2026-11-20: done on top of .*, release [0-9a-f]{64}\n2026-11-20: done before", shown)
    private.upload(reader.drop("2026-11-21", seed=5), f"s3://{DROPS}/ci/2026-11-21")  # not complete yet
    names = {**digests(reader.folder / "out"), "CLEAN_DIGEST": Release(clean).digest}
    names |= {"NAME": drop.name, "NEXT": "2026-11-21"}
    exports = "".join(line + "\n" for line in once.splitlines() if line.startswith("export"))
    with KfpApi() as server:
        server.states = ["RUNNING", "SUCCEEDED"]

        def ran():  # test_cluster.py has such runs done
            (run,) = server.runs.values()
            given = run.runtime_config.parameters
            write_record(new_record(given["submission"], "5" * 64), given["publish_evidence_uri"], private)

        server.created = ran
        shown = reader.run(exports + later.replace("https://KFP", server.url), **names)
    assert shown.index("done before, nothing to do") < shown.index("done: ") < shown.index("submitted: update-release")
    assert f"release: {'5' * 64}\n2026-11-20: done before" in shown


def test_lineage(reader, services):
    reader.run("medmark keys new --out KEYS; cp KEYS/medmark.pub .")
    (reader.folder / "raw").rename(reader.folder / "DROP1")
    reader.drop("DROP2", seed=3)
    shutil.rmtree(reader.folder / "out")
    make, check = commands("lineage").split("medmark lineage verify", 1)
    exports = f"export MEDMARK_S3_CREDENTIALS={services.credentials['release']}\n"
    places = {"BUCKET": RELEASES, "PREFIX": "lineage"}
    reader.run(exports + make, **places)
    head = Release(reader.folder / "OUT2" / "release").digest
    for out in ("OUT1", "OUT2"):
        release = reader.folder / out / "release"
        shutil.copytree(release, reader.folder / "chain" / Release(release).digest)
    shown = reader.run(f"{exports}medmark lineage verify{check}", DIGEST=head, ROOT="chain", **places)
    assert head[:12] in shown and "<svg" in (reader.folder / "lineage.html").read_text()
    assert (reader.folder / "OUT2" / "release" / "croissant.json").is_file()


def test_updating(reader):
    reader.drop("drop", seed=4)
    shown = reader.run(commands("updating"))
    assert "20 added" in shown and Release(reader.folder / "out2" / "release").version == "2"


def test_tracking(reader, services):
    shown = reader.run(commands("tracking").replace("http://127.0.0.1:5000", services.mlflow))
    assert "nothing to send" in shown


def test_audit(reader):
    export_suspect(reader.folder / "m.onnx")
    shown = reader.run(commands("audit"), EVIDENCE="out/evidence", TARGET="m.onnx", DIR="audited")
    assert "audited/audit.html" in shown


def export_suspect(path: Path) -> None:
    """Writes a model that knows nothing, as ONNX."""
    torch.onnx.export(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 64, 2), torch.nn.Softmax(dim=1)).eval(),
        (torch.zeros(2, 1, 64, 64),),
        str(path),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        external_data=False,
    )
