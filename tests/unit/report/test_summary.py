"""What the page of a Kubeflow run says of a release's mark."""

import json
import re

import pytest
from made_up_audit import inputs
from markdown_it import MarkdownIt
from medmark.components.report.summary import metrics, summary
from medmark.components.verification.verdict import release_proofs


def verdict(**made):
    told = json.loads(json.dumps(inputs(**made)["verdict"]))
    told["seconds"]["total"] = 3.0
    return told


def shown(text):
    """As KFP's page shows it: HTML in Markdown counts."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


@pytest.mark.parametrize(("made", "works"), [({}, True), ({"fires": 6.0}, False), ({"benign_models": 5}, False)])
def test_a_mark_that_does_not_work_is_called_that(made, works):
    told = verdict(**made)
    page = shown(summary(told))
    assert (told["verdict"] == "owned") == works
    assert page.startswith(f"<h1>{told['verdict']}</h1>")
    assert ("<strong>" in page and "Do not publish this release." in page) != works
    assert metrics(told)["works"] == works
    assert len(re.findall("<li>", page)) == len(told["reasons"])


def test_every_proof_is_there_with_its_numbers():
    told = verdict(fires=6.0)
    page = shown(summary(told))
    cells = re.findall(r"<td>(.*?)</td>", page)
    for proof in release_proofs(told):
        assert proof.name in cells
    numbers = metrics(told)
    assert numbers["wsr"] == told["malicious"]["wsr"] and numbers["ssim"] == told["quality"]["ssim"]
    assert all(type(value) is float for value in numbers.values())


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "| a | b |",
        "![x](http://evil/x)",
        "`code`\n\n# title",
        "[a](javascript:1)",
        "https://evil/x",
    ],
)
def test_names_from_outside_are_text(name):
    told = verdict(fires=6.0)
    told["reasons"] = [f"{name}: benign model accused"]
    page = shown(summary(told))
    assert not re.search(r"\w://", summary(told))  # KFP's page makes links of bare addresses
    assert not re.search(r"<(img|a|code|script)\b", page) and page.count("<h1>") == 1
    assert page.count("<tr>") == shown(summary(verdict(fires=6.0))).count("<tr>")
