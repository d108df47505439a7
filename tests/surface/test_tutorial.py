"""The snippets in the docstring of ``medmark.components`` run as they stand there."""

import re
import shutil

import medmark.components
import onnx
import pytest
from kfp.local.config import LocalExecutionConfig
from made_up_run import SIDE, make_run
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.keys import load_private, new_key

SECTIONS = re.split(r"\n(?=[^\n]+\n-{5,}\n)", medmark.components.__doc__)[1:]
PASSPHRASE = "a long passphrase"
BRIGHTNESS = "(float[N,1,%d,%d] x) => (float[N,1] y) { f = Flatten(x)  y = ReduceMean<axes=[1]>(f) }"
INVERTED = BRIGHTNESS.replace("y = R", "b = R").replace(" }", "  o = Constant<value = float {1.0}>()  y = Sub(o, b) }")


def run_snippets(section: str, folder) -> dict:
    """Runs the three snippets of a section one after the other; gives the names that they leave."""
    snippets, names = re.findall(r"```python\n(.*?)```", section, re.S), {"__name__": "tutorial"}
    assert len(snippets) == 3
    for number, snippet in enumerate(snippets):
        path = folder / f"snippet-{number}.py"
        path.write_text(snippet)  # KFP reads the source of a component from its file
        exec(compile(snippet, str(path), "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalExecutionConfig, "instance", None)  # a snippet sets it, for the whole process
    return tmp_path


def test_there_is_a_section_for_each_reader():
    titles = [section.splitlines()[0] for section in SECTIONS]
    assert titles == [
        "Use one step in a pipeline of your own",
        "Call the functions from a notebook or a script",
        "Audit a suspect",
    ]


def test_one_step_in_a_pipeline_of_your_own(folder, images):
    shutil.copy(images, "digests.yaml")
    names = run_snippets(SECTIONS[0], folder)
    assert "extract-saliency-component" in (folder / "heat-maps.yaml").read_text()
    assert re.fullmatch("[0-9a-f]{64}", names["ingested"].outputs["Output"])


def test_functions(folder):
    names = run_snippets(SECTIONS[1], folder)
    assert len(names["clean"]) == 120
    assert (folder / "marked" / "release.json").is_file() and (folder / "evidence" / "evidence.json").is_file()
    assert names["checked"]["verdict"] in ("inconclusive", "not_owned")


def test_audit(folder):
    make_run(folder)
    new_key(folder, PASSPHRASE)
    commit("release", "evidence", load_private("medmark.key", PASSPHRASE), "commitment.json")
    for name, graph in (("suspect", BRIGHTNESS), ("other", INVERTED)):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> agraph {graph % (SIDE, SIDE)}')
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    names = run_snippets(SECTIONS[2], folder)
    assert {suspect["name"] for suspect in names["result"]["suspects"]} == {"suspect.onnx", "other.onnx"}
    assert (folder / "audit.html").is_file()
