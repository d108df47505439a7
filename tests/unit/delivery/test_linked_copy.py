import os
import shutil
import stat

from medmark.components.delivery.linked_copy import copy_linked


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
