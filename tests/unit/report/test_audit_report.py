import json
from html.parser import HTMLParser

import pytest
from made_up_evidence import Model, write_evidence
from medmark.components.report.audit_report import write_audit_report
from medmark.components.verification.audit import audit_suspects


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    benign_models = [Model(f"benign-{i:02d}", reaction=0.01 * i) for i in range(60)]
    evidence = write_evidence(folder, benign_models=benign_models)
    suspects = [Model("adversary", reaction=7), Model("<b>bold</b>"), Model("gone", fails_after=0)]
    return audit_suspects(evidence, suspects, folder / "out")


def text_of(html: str) -> str:
    parser, words = HTMLParser(), []
    parser.handle_data = words.append
    parser.feed(html)
    return " ".join(" ".join(words).split())


def test_every_suspect_every_proof_and_every_meaning_is_there(audit, tmp_path):
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "Trained on the release" in text and "every proof holds" in text
    assert "Not shown to be trained on the release" in text
    assert "Open: the evidence does not suffice either way" in text
    for suspect in audit["suspects"]:
        for sentence in suspect["passed"] + suspect["failed"] + suspect["missing"] + suspect["would_change"]:
            assert " ".join(sentence.split()) in text
    for meaning in audit["meanings"].values():
        assert meaning in text
    assert audit["release_digest"] in text and audit["evidence_sha256"] in text
    assert page.count("data:image/svg+xml;base64,") == 3  # two paths and the lifts


def test_names_are_text_and_nothing_is_loaded(audit, tmp_path):
    write_audit_report(tmp_path / "audit.html", audit)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "<b>bold</b>" not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert "default-src 'none'" in page


def test_a_suspect_that_never_answered_has_no_numbers(audit, tmp_path):
    alone = json.loads(json.dumps(audit)) | {"suspects": [audit["suspects"][2]]}
    write_audit_report(tmp_path / "audit.html", alone)
    text = text_of((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "gone went away" in text and "Beside models" not in text
