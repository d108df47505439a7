"""What steps say of themselves on their way through the metadata of artifacts."""

import base64
import json
import zlib
from types import SimpleNamespace

import pytest
from kfp_metadata import readable, stored
from medmark.components.base.errors import MedmarkError
from medmark.components.lineage.step import pass_on, passed_on, said_by, step
from medmark.components.profiles import MAX_GROUPS, PROFILES, with_secret_seed

LONGEST_ARGUMENT = 1 << 17  # bytes, of Linux


def artifact(path, content="x"):
    path.write_text(content)
    return SimpleNamespace(path=str(path), uri=f"s3://bucket/{'x' * 150}/{path.name}", metadata={})


def trained(folder, number):
    """What training one model says."""
    made = artifact(folder / f"model-{number}", str(number))
    config = with_secret_seed(PROFILES["standard"].benign_configs(0)[0] | {"name": f"benign-{number}"})
    with step(
        "train classifiers", inputs={"release": made}, outputs={"models": made}, parameters={"configs": [config]}
    ):
        pass
    made.metadata = stored(made.metadata)
    return made


def test_what_steps_said_comes_back_through_the_backend(tmp_path):
    made, later = trained(tmp_path, 1), artifact(tmp_path / "later")
    said = said_by({"train": made})
    assert said["train"]["lineage"]["job"]["name"] == "train classifiers" and said["train"]["seconds"] >= 0
    pass_on(said, later)
    later.metadata = stored(later.metadata)
    assert passed_on(later) == said and passed_on(made) == {}


def test_what_the_steps_of_a_loop_say_fits_an_argument(tmp_path):
    """Of the step that gathers what they made; and what it passes on fits those of all later steps."""
    made = [trained(tmp_path, number) for number in range(MAX_GROUPS)]
    listed = [
        {"name": one.uri, "uri": one.uri, "metadata": one.metadata, "type": {"schemaTitle": "system.Model"}}
        for one in made
    ]
    assert len(json.dumps(listed)) < LONGEST_ARGUMENT
    gathered = artifact(tmp_path / "all")
    pass_on(said_by({str(number): one for number, one in enumerate(made)}), gathered)
    assert len(gathered.metadata["before"]) < LONGEST_ARGUMENT / 4


@pytest.mark.parametrize(
    "packed",
    [
        "",
        "{}",
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(zlib.compress(b"{}" * 100)[:-4]).decode(),
        base64.b64encode(zlib.compress(b"[]")).decode(),
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
        base64.b64encode(zlib.compress(b" " * (1 << 26))).decode(),
        7.0,
    ],
)
def test_a_damaged_account_is_refused_in_one_line(packed, tmp_path):
    made = artifact(tmp_path / "made")
    made.metadata = {"before": packed, "lineage": packed, "seconds": 1.0}
    for read in (passed_on, lambda one: said_by({"x": one})):
        with pytest.raises(MedmarkError, match="damaged account of earlier steps") as refused:
            read(made)
        assert "\n" not in str(refused.value)


def test_what_is_packed_hides_nothing_from_the_tests(tmp_path):
    """Logs show metadata, and tests look for secrets in logs."""
    made = trained(tmp_path, 1)
    assert "benign-1" not in json.dumps(made.metadata) and "benign-1" in readable(json.dumps(made.metadata))
