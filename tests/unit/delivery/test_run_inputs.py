import pytest
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.publish import RELEASE
from medmark.components.delivery.run_inputs import fetch_input


def test_a_run_starts_from_what_it_was_started_with(release, tmp_path):
    fetch_input(RELEASE, str(release), file_sha256(release / "release.json"), tmp_path / "taken")
    assert file_sha256(tmp_path / "taken" / "release.json") == file_sha256(release / "release.json")
    for uri, digest in ((release, "0" * 64), (tmp_path, file_sha256(release / "release.json"))):
        with pytest.raises(MedmarkError, match="not what the run was started with: .*release.json; start it again"):
            fetch_input(RELEASE, str(uri), digest, tmp_path / "other")
    assert not (tmp_path / "other").exists()
