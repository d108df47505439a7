from __future__ import annotations

import pytest
from medmark.components.base.digests import first_changed, folder_sha256


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_bytes(b"a")
    (folder / "below" / "b").write_bytes(b"b")
    (folder / "list.json").write_bytes(b"{}")
    (tmp_path / "outside").write_bytes(b"a")
    return folder


def test_a_folder_has_the_digests_it_was_given(folder):
    stated = folder_sha256(folder, without="list.json")
    assert list(stated) == ["a", "below/b"]
    assert first_changed(folder, stated) is None


@pytest.mark.parametrize("damage", ["missing", "changed", "linked"])
def test_the_changed_file_is_named(folder, damage):
    stated = folder_sha256(folder, without="list.json")
    (folder / "a").unlink()
    if damage == "changed":
        (folder / "a").write_bytes(b"A")
    if damage == "linked":  # the right content, but not the folder's own
        (folder / "a").symlink_to(folder.parent / "outside")
    assert first_changed(folder, stated) == folder / "a"


def test_a_name_that_leads_out_of_the_folder_is_refused(folder):
    sha256 = folder_sha256(folder, without="list.json")["a"]
    assert first_changed(folder, {"../outside": sha256}) is not None
