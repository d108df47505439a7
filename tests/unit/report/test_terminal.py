"""The table in the terminal says what the check decided, by its thresholds."""

import json

import pytest
from made_up_audit import inputs
from medmark.components.report.terminal import verdict_rows
from medmark.components.verification.verdict import release_proofs


@pytest.fixture(scope="module")
def verdict():
    made = inputs(fires=6.0)["verdict"]
    made["seconds"]["total"] = 3.0
    return json.loads(json.dumps(made))


def test_every_proof_has_a_row_and_those_that_fail_stand_out(verdict):
    rows = {row.what: row for row in verdict_rows(verdict)}
    assert rows["verdict"].result == "not_owned" and rows["verdict"].style == "red"
    for proof in release_proofs(verdict):
        assert rows[proof.name].needed == proof.needed
        assert (rows[proof.name].style is None) == (proof.state == "holds")
    assert rows["control mark"].style and rows["set off by another mark"].result == "2 of 2"
    assert rows["t-test"].style is None and rows["benign models accused"].needed == "0"


def test_what_is_needed_is_what_the_check_asked_for(verdict):
    rows = {row.what: row for row in verdict_rows(verdict | {"thresholds": verdict["thresholds"] | {"alpha": 0.002}})}
    assert rows["t-test"].needed == "< 0.002" and rows["control mark"].needed == ">= 0.002"


def test_patients_who_were_held_back_are_counted(verdict):
    assert "patients held back" not in {row.what for row in verdict_rows(verdict)}
    rows = {row.what: row for row in verdict_rows(verdict | {"held_back_patients": 91})}
    assert rows["patients held back"].result == "91"
