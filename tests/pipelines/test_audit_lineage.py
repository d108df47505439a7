"""The lineage commands, the pipeline that checks a chain, and a chain in a real object store."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import publish
from medmark.components.lineage.component import audit_lineage_component
from medmark.components.lineage.keys import load_private, new_key
from medmark.components.storage.store import Store
from medmark.pipelines.audit_lineage.pipeline import audit_lineage
from medmark.pipelines.services import down, up

CASES = str(Path(__file__).parents[1] / "unit" / "lineage")
PASSPHRASE = "a long passphrase"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    new_key(folder, PASSPHRASE)
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory, keys):
    """A chain of three releases."""
    sys.path.insert(0, CASES)
    try:
        from chain_case import make_chain
    finally:
        sys.path.remove(CASES)
    return make_chain(tmp_path_factory.mktemp("kept"), load_private(keys / "medmark.key", PASSPHRASE), 3)


@pytest.fixture
def releases(kept, tmp_path):
    """Folders of a copy of it, the first release first."""
    shutil.copytree(kept.root, tmp_path / "releases")
    return [tmp_path / "releases" / path.name for path in kept.releases]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("COLUMNS", "200")


def test_verify_says_what_holds_and_what_does_not(medmark, keys, kept, releases, tmp_path):
    command = ("lineage", "verify", releases[-1], "--public-key", keys / "medmark.pub")
    private = ("--raw", kept.raw, "--sources", kept.sources, "--clean", kept.clean)
    code, out, err = medmark(*command, *private, "--json", tmp_path / "result.json")
    assert (code, err) == (0, "") and "All 3 releases hold" in out
    assert json.loads((tmp_path / "result.json").read_bytes())["holds"]
    (releases[1] / "changes.json").write_bytes(b"")
    code, out, err = medmark(*command)
    assert code == 1 and "The chain is broken" in out
    assert err.startswith(f"medmark: {releases[1].name}/changes.json does not hold: ") and err.count("\n") == 1
    code, _, err = medmark(*command, "--raw", kept.raw)
    assert code == 1 and "give both" in err


def test_show_draws_the_chain(medmark, keys, releases, tmp_path):
    code, out, _ = medmark(
        "lineage", "show", releases[-1], "--html", tmp_path / "chain.html", "--json", tmp_path / "c.json"
    )
    assert code == 0 and "signatures were not checked" in out and "raw drop" in out
    assert (
        "<svg" in (tmp_path / "chain.html").read_text() and not json.loads((tmp_path / "c.json").read_bytes())["holds"]
    )
    elsewhere = shutil.move(releases[-1], tmp_path / "release")
    options = ("--root", tmp_path / "releases", "--public-key", keys / "medmark.pub")
    code, out, _ = medmark("lineage", "show", elsewhere, *options)
    assert code == 0 and "All 3 releases hold" in out


def test_sign_and_croissant(medmark, keys, kept, releases):
    head = releases[-1]
    for name in ("lineage.json", "commitment.json"):
        (head / name).unlink()
    private = kept.private[-1]
    given = (
        "--record",
        private / "record.json",
        "--commitment",
        private / "commitment.json",
        "--key",
        keys / "medmark.key",
    )
    code, _, err = medmark("lineage", "sign", head, *given)
    assert code == 1 and "an updated release needs its parent" in err
    code, out, _ = medmark("lineage", "sign", head, *given, "--parent", releases[-2])
    assert code == 0 and "signed: " in out and (head / "commitment.json").is_file()
    assert medmark("lineage", "verify", head, "--public-key", keys / "medmark.pub")[0] == 0
    code, out, _ = medmark("lineage", "croissant", head, "--out", head / "croissant.json", "--license", "CC-BY-4.0")
    assert code == 0 and json.loads((head / "croissant.json").read_bytes())["license"] == "CC-BY-4.0"
    assert medmark("lineage", "verify", head, "--public-key", keys / "medmark.pub")[0] == 0  # a card does no harm


def test_the_step_writes_result_and_report(keys, releases, tmp_path):
    result, report = dsl.Artifact(uri=str(tmp_path / "result")), dsl.HTML(uri=str(tmp_path / "report"))
    pem = (keys / "medmark.pub").read_text()
    run = audit_lineage_component.python_func
    assert run(str(releases[-1]), pem, "", result, report) == "holds"
    assert (
        json.loads(Path(result.path).read_bytes())["holds"] and "All 3 releases hold" in Path(report.path).read_text()
    )
    (releases[0] / "lineage.json").write_bytes(b"{}")
    assert run(str(releases[-1]), pem, "", result, report) == "broken"
    assert str(tmp_path) not in Path(report.path).read_text()
    with pytest.raises(MedmarkError, match="no public key"):
        run(str(releases[-1]), "no key", "", result, report)


def test_the_pipeline_compiles_to_one_step_that_is_never_cached(tmp_path):
    compiler.Compiler().compile(audit_lineage, str(tmp_path / "ir.yaml"))
    ir, _ = yaml.safe_load_all((tmp_path / "ir.yaml").read_text())
    (task,) = ir["root"]["dag"]["tasks"].values()
    assert ir["pipelineInfo"]["name"] == "audit-lineage" and not task["cachingOptions"].get("enableCache")
    assert set(ir["root"]["outputDefinitions"]["artifacts"]) == {"result", "report"}
    assert "pip install" not in str(ir)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services")
    try:
        yield up(folder, mlflow_port=None)
    finally:
        down(folder)


def test_a_chain_in_an_object_store(medmark, keys, kept, releases, services, monkeypatch):
    """Published release by release, fetched as a whole, and checked; the lineage too comes from the store."""
    monkeypatch.setenv("MEDMARK_S3_CREDENTIALS", str(services.credentials["release"]))
    store = Store.from_environment()
    uris = [publish(path, "s3://medmark-releases/chain", store).uri for path in releases]
    command = ("lineage", "verify", uris[-1], "--public-key", keys / "medmark.pub")
    code, out, err = medmark(*command)
    assert code == 0 and "All 3 releases hold" in out, err
    code, _, err = medmark(*command, "--root", releases[0].parent)
    assert code == 1 and "give no root" in err
    lone = publish(releases[-1], "s3://medmark-releases/lone", store).uri
    code, _, err = medmark("lineage", "verify", lone, "--public-key", keys / "medmark.pub")
    assert code == 1 and f"nothing complete there: s3://medmark-releases/lone/{releases[-2].name}" in err
    assert Release(releases[-1]).digest == uris[-1].rpartition("/")[2]
