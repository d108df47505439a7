import pytest
from medmark.pipelines.local_output import StepOutput

NOISE = """\
04:02:01.123 - INFO - Executing task \x1b[96m'train-classifiers-component-2'\x1b[0m
04:02:02.000 - INFO - Streamed logs:

    Installing things nobody asked about
    training classifiers: 3/20 after 14 s
"""


@pytest.fixture
def output(tmp_path):
    with StepOutput(tmp_path / "log", False, {"train-classifiers-component-2": "train benign models"}) as stream:
        yield stream


def test_only_steps_and_their_progress_are_shown(output, capsys, tmp_path):
    for piece in (NOISE[:40], NOISE[40:70], NOISE[70:]):  # lines come in pieces
        output.write(piece)
    output.flush()
    assert capsys.readouterr().err == "step train benign models\n  training classifiers: 3/20 after 14 s\n"
    assert (tmp_path / "log").read_text() == NOISE


def test_the_reason_of_a_failure_is_found(output):
    output.write(NOISE)
    output.write("    medmark.components.base.errors.MedmarkError: truncated image: a.png; copy it again\n")
    assert output.step == "train benign models"
    assert output.reason == "truncated image: a.png; copy it again"


def test_what_runs_after_a_failure_is_not_blamed(output, capsys):
    """kfp.local still runs the steps that do not need the one that failed."""
    for step, reason in (("train-classifiers-component-2", "too few images"), ("report-component", "no such folder")):
        output.write(f"04:02:01.123 - INFO - Executing task \x1b[96m'{step}'\x1b[0m\n")
        output.write(f"    medmark.components.base.errors.MedmarkError: {reason}\n")
        output.write(
            f"04:02:02.123 - ERROR - Task \x1b[96m'{step}'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m\n"
        )
    assert (output.step, output.reason) == ("train benign models", "too few images")
    assert capsys.readouterr().err == "step train benign models\nstep report-component\n"
