import os
import shutil
import stat

import pytest
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.linked_copy import copy_linked
from medmark.components.delivery.publish import RELEASE
from medmark.components.delivery.run_inputs import fetch_input
from medmark.components.delivery.run_outputs import check_apart


def test_a_folder_of_links_shares_content_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("kept by another tool")
    (source / "manifest.json").write_text("{}")
    (source / "sub" / "pointer").symlink_to("../../elsewhere")
    for folder in (source / "sub", source):
        folder.chmod(0o555)  # as an archive has it
    try:
        copy_linked(source, tmp_path / "copy")
        assert (tmp_path / "copy" / "manifest.json").samefile(source / "manifest.json")
        assert (tmp_path / "copy" / "sub" / "pointer").read_text() == "kept by another tool"
        assert not (tmp_path / "copy" / "sub" / "pointer").is_symlink()
        assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "copy", tmp_path / "copy" / "sub")} == {0o700}
        (tmp_path / "copy" / "added").touch()
        shutil.rmtree(tmp_path / "copy")
        assert sorted(os.listdir(source)) == ["manifest.json", "sub"] and (tmp_path / "elsewhere").exists()
    finally:
        for folder in (source, source / "sub"):
            folder.chmod(0o755)


def test_where_links_cannot_be_the_files_are_copied(tmp_path, monkeypatch):
    def no_links(*arguments, **options):
        raise OSError("another file system")

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    monkeypatch.setattr(os, "link", no_links)
    copy_linked(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy" / "file").read_text() == "content"
    assert not (tmp_path / "copy" / "file").samefile(tmp_path / "source" / "file")


def test_a_run_starts_from_what_it_was_started_with(release, tmp_path):
    fetch_input(RELEASE, str(release), file_sha256(release / "release.json"), tmp_path / "taken")
    assert file_sha256(tmp_path / "taken" / "release.json") == file_sha256(release / "release.json")
    for uri, digest in ((release, "0" * 64), (tmp_path, file_sha256(release / "release.json"))):
        with pytest.raises(MedmarkError, match="not what the run was started with: .*release.json; start it again"):
            fetch_input(RELEASE, str(uri), digest, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_one_bucket_is_not_enough():
    check_apart("s3://releases/a", "s3://evidence/a")
    with pytest.raises(MedmarkError, match="one bucket for releases and evidence"):
        check_apart("s3://releases/a", "s3://releases/b")
