import os
import signal
import sqlite3
import stat
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.suspects import answer_store
from medmark.components.suspects.answer_store import StoredSuspect, gather_answers, new_store
from medmark.components.suspects.segmenters import square_map


class Model:
    """P(second class) is the mean of an image."""

    name, size, batch_size = "model", 4, 4

    def __init__(self, identity="a", fails_at=None):
        self.identity, self.fails_at, self.calls = identity, fails_at, []

    def __call__(self, images):
        if len(self.calls) == self.fails_at:
            raise MedmarkError("gone")
        self.calls.append(len(images))
        p = images.double().mean(dim=(1, 2, 3)).numpy()
        return np.stack([1 - p, p], axis=1)


@pytest.fixture
def images():
    return torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.db"


def test_what_is_known_is_not_asked_again(images, path):
    with StoredSuspect(Model(), path) as first:
        rows = first(images[:6])
        assert (first.asked, first.reused, first.suspect.calls) == (6, 0, [4, 2])
    model = Model()
    with StoredSuspect(model, path) as second:
        again = second(images)
        assert (second.asked, second.reused, model.calls) == (4, 6, [4])
    np.testing.assert_array_equal(again, Model()(images))
    np.testing.assert_array_equal(again[:6], rows)
    assert (second.name, second.size, second.identity) == ("model", 4, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_image_that_occurs_twice_is_asked_once(images, path):
    model = Model()
    with StoredSuspect(model, path) as suspect:
        rows = suspect(images[[0, 1, 0, 0]])
        assert (suspect.asked, suspect.reused, model.calls) == (2, 2, [2])
    np.testing.assert_array_equal(rows, Model()(images[[0, 1, 0, 0]]))


def test_answers_that_were_had_in_several_places_are_put_together(images, path):
    parts = [path.with_name(f"{identity}.db") for identity in "ab"]
    for identity, part in zip("ab", parts, strict=True):
        with StoredSuspect(Model(identity), part) as stored:
            stored(images)
    new_store(path.with_name("none.db"))
    gather_answers([*parts, path.with_name("none.db"), parts[0]], path)
    for identity in "ab":
        with StoredSuspect(Model(identity), path) as stored:
            np.testing.assert_array_equal(stored(images), Model()(images))
            assert stored.asked == 0
    path.with_name("none.db").write_bytes(b"no database")
    with pytest.raises(MedmarkError, match="answer store is damaged: .*none.db"):
        gather_answers([path.with_name("none.db")], path)


def test_one_bit_of_an_image_is_another_question(images, path):
    other = images.clone()
    other[0, 0, 0, 0] = torch.nextafter(other[0, 0, 0, 0], torch.tensor(2.0))
    with StoredSuspect(Model(), path) as suspect:
        suspect(images)
        suspect(other)
        assert (suspect.asked, suspect.reused) == (11, 9)


def test_suspects_do_not_share_answers(images, path):
    with StoredSuspect(Model("a"), path) as one, StoredSuspect(Model("b"), path) as two:
        one(images)
        two(images)
        assert (one.asked, two.asked, two.reused) == (10, 10, 0)


def test_at_most_one_batch_is_lost(images, path):
    with StoredSuspect(Model(fails_at=2), path) as suspect, pytest.raises(MedmarkError, match="gone"):
        suspect(images)
    assert suspect.asked == 8
    with StoredSuspect(Model(), path) as suspect:
        suspect(images)
        assert (suspect.asked, suspect.reused) == (2, 8)


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_answer_store import Model
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.segmenters import square_map

class Killed(Model):
    def __call__(self, images):
        if len(self.calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)

StoredSuspect(Killed(), sys.argv[2])(torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
"""


def test_a_killed_process_leaves_whole_batches(images, path):
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(path)]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    with StoredSuspect(Model(), path) as suspect:
        np.testing.assert_array_equal(suspect(images), Model()(images))
        assert (suspect.asked, suspect.reused) == (2, 8)


def refuses(path, why, images=None):
    with pytest.raises(MedmarkError, match=why) as refused:
        with StoredSuspect(Model(), path) as suspect:
            suspect(images)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 500])
def test_files_that_are_no_store_are_refused_and_kept(path, content):
    path.write_bytes(content)
    refuses(path, "move it away to ask again")
    assert path.read_bytes() == content


def test_a_damaged_page_is_found(images, path):
    with StoredSuspect(Model(), path) as suspect:
        suspect(torch.rand(200, 1, 4, 4))
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    refuses(path, "damaged")


def test_a_cut_file_is_found(path):
    with StoredSuspect(Model(), path) as suspect:
        suspect(torch.rand(200, 1, 4, 4))
    path.write_bytes(path.read_bytes()[:-3000])
    refuses(path, "damaged")


@pytest.mark.parametrize("row", [b"12345", b"", "text", None, b"\x00" * 24])
def test_a_damaged_row_is_found(images, path, row):
    with StoredSuspect(Model(), path) as suspect:
        suspect(images)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE answers SET row = ? WHERE image = (SELECT min(image) FROM answers)", (row,))
    file.close()
    refuses(path, "damaged", images)


def test_another_database_is_refused_and_kept(path):
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE runs (id)")
    file.close()
    refuses(path, "no answer store")
    with sqlite3.connect(path) as file:
        file.execute("DROP TABLE runs")
        file.execute("PRAGMA user_version = 2")
    file.close()
    refuses(path, "no answer store")


def test_a_locked_store_is_said_to_be_in_use(images, path, monkeypatch):
    monkeypatch.setattr(answer_store, "LOCK_TIMEOUT", 0.2)
    with StoredSuspect(Model(), path) as suspect:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MedmarkError, match="end other runs"):
            suspect(images)
        other.rollback()
        other.close()
        suspect(images)
        assert suspect.asked == 10


@pytest.mark.parametrize("place", ["missing/answers.db", "."])
def test_a_store_that_cannot_be_made(tmp_path, place):
    with pytest.raises(MedmarkError, match="answer store"):
        StoredSuspect(SimpleNamespace(name="", size=4, label_only=False, identity="", batch_size=1), tmp_path / place)


def test_maps_come_back_in_their_shape(images, path):
    class Segmenter(Model):
        def __call__(self, images):
            super().__call__(images)
            return images[:, 0].double().numpy()

    with StoredSuspect(Segmenter(), path, square_map) as first:
        asked = first(images)
    with StoredSuspect(Segmenter(), path, square_map) as second:
        np.testing.assert_array_equal(second(images), asked)
        assert asked.shape == (10, 4, 4) and (second.asked, second.reused) == (0, 10)
