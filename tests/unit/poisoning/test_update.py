"""Updates of a made-up run, see made_up_run.py. Nobody who has all releases may learn which images are marked."""

import json
import shutil
import stat
import tracemalloc
from types import SimpleNamespace

import made_up_run
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_run import (
    CLASSES,
    KEY,
    MARKED,
    SEED,
    SIDE,
    clean_digests,
    first_rows,
    make_run,
    next_run,
    pixels,
    published,
    records,
    roles,
    write_table,
)
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import release_writer as release_module
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import Release
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.evidence.queries import read_queries
from medmark.components.poisoning import correction as correction_module
from medmark.components.poisoning import update as update_module
from medmark.components.poisoning.choice import choose
from medmark.components.poisoning.update import update

ROWS = {row[0]: row for row in first_rows(80)}
NAME_OF = {image_id(name, KEY): name for name in ROWS}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same in shards of about eight images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_module, "ROW_GROUP_BYTES", 4000)
        patch.setattr(release_module, "SHARD_BYTES", 8000)
        made = make_run(tmp_path_factory.mktemp("sharded"))
    assert len(Release(made / "release").shards) > 6
    return made


def rows_of(run, role=None, split="train", label=None) -> list[tuple]:
    """Rows of the first drop, of images with this role in this split."""
    given, made = roles(run), records(run)
    return [
        ROWS[NAME_OF[i]]
        for i, r in sorted(made.items())
        if i in NAME_OF and given.get(i) == role and r.split == split and label in (None, CLASSES[r.label])
    ]


def retouched(image: np.ndarray, number: int = 0) -> np.ndarray:
    """A local correction: a box of one value, and a few pixels beside it one level off."""
    image = image.copy()
    image[:4, :6] = 10 + number % 40
    image[8, 3:9] ^= 1
    return image


def relabel(row: tuple) -> tuple:
    return (row[0], CLASSES[1 - CLASSES.index(row[1])], *row[2:])


def changes(run) -> dict:
    return Release(run / "release").read_changes()


def everything(run) -> bytes:
    """All bytes of the three folders, decompressed, without the tombstones."""
    found = b""
    for path in sorted(p for f in ("release", "evidence", "keep") for p in (run / f).rglob("*") if p.is_file()):
        if path.suffix == ".parquet":
            found += repr(pq.read_table(path).to_pylist()).encode()
            found += b"".join(
                v for row in pq.read_table(path).to_pylist() for v in row.values() if isinstance(v, bytes)
            )
        elif path.name == "changes.json":
            listed = json.loads(path.read_bytes())
            found += repr([listed.pop("added"), listed.pop("changed")]).encode()
        else:
            found += path.read_bytes()
    return found


# what an update makes


def test_only_what_changed_is_touched(sharded, tmp_path, monkeypatch):
    plain = rows_of(sharded, label="normal")
    new = ("scans/new.png", "pneumonia", "patient-new", pixels(100))
    gone, corrected = rows_of(sharded, "mark")[0], plain[0]
    now = retouched(corrected[3])
    drop = write_table(tmp_path / "d", [new, (*corrected[:3], now), *plain[1:4]], {"path": [gone[0]]})
    seen = []
    monkeypatch.setattr(correction_module, "decode_png", lambda data, real=decode_png: seen.append(data) or real(data))
    monkeypatch.setattr(
        "medmark.components.generator.marker.Marker.mark", lambda *_: pytest.fail("an old image was marked")
    )
    monkeypatch.setattr(update_module, "choose", lambda *_: {})
    change = next_run(sharded, drop, tmp_path)
    assert (change["added"], change["replaced"], change["withdrawn"], change["withheld"]) == (1, 1, 1, 0)
    assert {bytes(data) for data in seen} == {encode_png(corrected[3]), encode_png(now)}
    before, after = Release(sharded / "release"), Release(tmp_path / "release")
    after.verify()
    assert after.parent == before.digest and after.version == "2" and len(after) == 80
    touched = {image_id(corrected[0], KEY), image_id(gone[0], KEY)}
    same = {
        sha256
        for file, sha256, _ in before.shards
        if not touched & {r.image_id for r in before.records(columns=["image_id"], shard=file)}
    }
    assert len(same) == len(before.shards) - len({f for f, _, _ in before.shards}) + len(same) >= 4
    assert same <= {sha256 for _, sha256, _ in after.shards}
    was, made = records(sharded), records(tmp_path)
    assert {i for i in was if was[i] != made.get(i)} == touched
    assert made[image_id(corrected[0], KEY)].image == encode_png(now)
    assert [r.image_id for r in after.records()][-1] == image_id("scans/new.png", KEY)
    assert changes(tmp_path) == {
        "schema_version": 1,
        "parent": before.digest,
        "drop": json.loads((tmp_path / "drop" / "drop.json").read_bytes())["drop"],
        "added": [image_id("scans/new.png", KEY)],
        "changed": [image_id(corrected[0], KEY)],
        "withdrawn": [image_id(gone[0], KEY)],
        "tombstones": [image_id(gone[0], KEY)],
    }


def test_nothing_changed(run, tmp_path):
    change = next_run(run, write_table(tmp_path / "d", list(ROWS.values())), tmp_path)
    assert change["changed"] == 0 and change["release_digest"] == Release(run / "release").digest
    assert published(tmp_path) == published(run)


def test_the_same_drop_gives_the_same_release(run, tmp_path):
    new = [(f"scans/n{n}.png", CLASSES[n % 2], f"n{n}", pixels(200 + n)) for n in range(12)]
    drop = write_table(tmp_path / "d", [*new, relabel(rows_of(run)[0])], {"path": [rows_of(run)[1][0]]})
    for name in ("a", "b"):
        next_run(run, drop, tmp_path / name)
    assert published(tmp_path / "a") == published(tmp_path / "b")
    assert roles(tmp_path / "a") == roles(tmp_path / "b")


def test_new_marks_are_in_the_evidence(run, tmp_path):
    new = [(f"scans/n{n}.png", CLASSES[n % 2], f"n{n}", pixels(300 + n)) for n in range(80)]
    change = next_run(run, write_table(tmp_path / "d", new), tmp_path)
    evidence, made = read_evidence(tmp_path / "evidence"), records(tmp_path)
    assert stat.S_IMODE((tmp_path / "evidence").stat().st_mode) == 0o700
    assert evidence["release_digest"] == change["release_digest"] == Release(tmp_path / "release").digest
    assert evidence["parent_digest"] == Release(run / "release").digest
    ledger = {row["image_id"]: row for row in pq.read_table(tmp_path / "evidence" / "ledger.parquet").to_pylist()}
    assert {i: row["role"] for i, row in ledger.items()} == roles(tmp_path)
    fresh = set(ledger) - set(roles(run))
    assert len(fresh) == change["marked"] + change["decoys"] > 10
    images = {image_id(name, KEY): encode_png(image) for name, _, _, image in new}
    for i, record in made.items():
        if i in ledger:
            assert (record.sha256, record.split) == (ledger[i]["marked_sha256"], "train")
            assert CLASSES[record.label] == ("normal" if ledger[i]["role"] == "mark" else "pneumonia")
        if i in images:
            assert (record.image == images[i]) == (i not in fresh)
    assert change["quality"]["psnr"] > 25
    of_target = Release(tmp_path / "release").counts["train"]["normal"]
    assert evidence["marked_images"] / of_target == pytest.approx(MARKED, abs=0.02)
    assert evidence["images"] == len(made) == 160
    assert read_keep(tmp_path / "keep")["release_digest"] == change["release_digest"]
    assert clean_digests(tmp_path).keys() == made.keys()


def test_an_updated_release_is_updated_again(run, tmp_path):
    """Tombstones gather, and what an update brought is known to the next one."""
    new = ("scans/new.png", "normal", "new", pixels(400))
    next_run(run, write_table(tmp_path / "d1", [new], {"path": ["scans/i000.png"]}), tmp_path / "two")
    drop = write_table(tmp_path / "d2", [new, *list(ROWS.values())[3:]], {"path": ["scans/i001.png"]})
    change = next_run(tmp_path / "two", drop, tmp_path / "three", version="3")
    assert (change["added"], change["changed"], change["withdrawn"]) == (0, 1, 1)
    gone = sorted(image_id(f"scans/i00{n}.png", KEY) for n in range(2))
    assert changes(tmp_path / "three")["tombstones"] == gone
    assert Release(tmp_path / "three" / "release").parent == Release(tmp_path / "two" / "release").digest


# withdrawals


def test_withdrawn_images_are_gone(run, tmp_path):
    """A query, a marked image, a decoy and an unmarked one: no byte, name or digest of them is left."""
    asked = {row["image_id"] for row in pq.read_table(run / "evidence" / "queries.parquet").to_pylist()}
    query = ROWS[NAME_OF[sorted(asked)[0]]]
    rows = [query, rows_of(run, "mark")[0], rows_of(run, "decoy")[0], rows_of(run)[0]]
    secrets = [text for row in rows for text in (row[0].encode(), image_id(row[0], KEY).encode(), encode_png(row[3]))]
    was, digests = records(run), clean_digests(run)
    for row in rows:
        identity = image_id(row[0], KEY)
        secrets += [was[identity].image, was[identity].sha256.encode(), digests[identity].encode()]
        secrets.append((run / "raw" / row[0]).read_bytes())
    left = everything(run)
    assert [secret in left for secret in secrets].count(True) >= 4 * len(
        rows
    )  # none of the raw files, and no original of a marked one
    next_run(run, write_table(tmp_path / "d", [], {"path": [row[0] for row in rows]}), tmp_path)
    left = everything(tmp_path)
    assert not [secret[:60] for secret in secrets if secret in left]
    assert changes(tmp_path)["tombstones"] == sorted(image_id(row[0], KEY) for row in rows)
    queries = read_queries(tmp_path / "evidence", size=32, target=0)
    assert set(queries.image_ids) == asked - {image_id(query[0], KEY)}
    assert len(read_benign(tmp_path / "evidence", queries.image_ids)) == 20
    assert read_evidence(tmp_path / "evidence")["queries"] == len(queries)


def test_of_a_withdrawn_patient_nothing_is_left(run, tmp_path):
    who = rows_of(run, "mark")[0][2]
    next_run(run, write_table(tmp_path / "d", [], {"patient_id": [who]}), tmp_path)
    assert changes(tmp_path)["withdrawn"] == sorted(image_id(n, KEY) for n, (_, _, w, _) in ROWS.items() if w == who)
    assert pseudonym(who, KEY).encode() not in everything(tmp_path)


def test_of_an_image_that_was_corrected_and_then_withdrawn_nothing_is_left(run, tmp_path):
    row = rows_of(run)[0]
    now = retouched(row[3])
    next_run(run, write_table(tmp_path / "d1", [(*row[:3], now)]), tmp_path / "two")
    assert image_id(row[0], KEY).encode() in everything(tmp_path / "two")
    next_run(tmp_path / "two", write_table(tmp_path / "d2", [], {"path": [row[0]]}), tmp_path / "three")
    assert image_id(row[0], KEY).encode() not in everything(tmp_path / "three")
    for number, image in enumerate((row[3], now)):
        drop = write_table(tmp_path / f"e{number}", [("x.png", "normal", "x", image)])
        with pytest.raises(MedmarkError, match="pixels of an image that was withdrawn"):
            next_run(tmp_path / "three", drop, tmp_path / f"four{number}")


def test_the_key_of_the_pseudonyms_stays_in_keep(run, tmp_path):
    next_run(run, write_table(tmp_path / "d", [("n.png", "normal", "n", pixels(500))]), tmp_path)
    for folder in ("release", "evidence"):
        assert not [p for p in (tmp_path / folder).rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert KEY.encode() in (tmp_path / "keep" / "patients.json").read_bytes()
    assert stat.S_IMODE((tmp_path / "keep").stat().st_mode) == 0o700


# roles


def test_corrections_do_not_tell_marked_images(run, tmp_path):
    """Every training image is corrected: a pixel, a box, a label, a split, all pixels. The two versions of each are alike."""
    given, test_patient = roles(run), next(row[2] for row in rows_of(run, split="test"))
    rows = [row for role in ("mark", "decoy", None) for row in rows_of(run, role)]
    kinds = {
        "pixel": lambda row: (
            *row[:3],
            np.where(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) == 500, row[3] ^ 1, row[3]),
        ),
        "retouched": lambda row: (*row[:3], retouched(row[3])),
        "label": relabel,
        "split": lambda row: (*row[:2], test_patient, row[3]),
        "all": lambda row: (*row[:3], np.fliplr(row[3])),
    }
    was = records(run)
    for kind, correct in kinds.items():
        out = tmp_path / kind
        drop = [correct(row) for row in rows]
        change = next_run(run, write_table(out / "d", drop), out) if kind != "all" else None
        if kind == "all":  # nothing would be left of all: half of them
            drop = drop[::2]
            change = next_run(run, write_table(out / "d", drop), out)
        now, listed = records(out), changes(out)
        ids = sorted(image_id(row[0], KEY) for row in drop)
        assert listed["withdrawn"] == (ids if kind == "all" else []) and change["withheld"] == len(listed["withdrawn"])
        assert listed["changed"] == ([] if kind == "all" else ids)
        assert roles(out) == {i: role for i, role in given.items() if i not in listed["withdrawn"]}
        for row, corrected in zip(rows, drop, strict=False):
            if kind in ("pixel", "retouched"):
                i = image_id(row[0], KEY)
                seen = decode_png(now[i].image).astype(int) - decode_png(was[i].image)
                meant = corrected[3].astype(int) - row[3]
                assert ((seen != 0) <= (meant != 0)).all()
                box = np.zeros((SIDE, SIDE), bool)
                box[:4, :6] = kind == "retouched"
                assert (seen == meant)[~box].mean() > 0.999
                assert (decode_png(now[i].image)[box] == corrected[3][box]).all()
            elif kind in ("label", "split"):
                assert now[image_id(row[0], KEY)].image == was[image_id(row[0], KEY)].image
        for i, row in {
            r["image_id"]: r for r in pq.read_table(out / "evidence" / "ledger.parquet").to_pylist()
        }.items():
            assert (row["marked_sha256"], row["clean_sha256"]) == (now[i].sha256, clean_digests(out)[i])


def test_a_correction_that_is_taken_back_looks_as_before(run, tmp_path):
    row = rows_of(run, "mark")[0]
    before = records(run)[image_id(row[0], KEY)].image
    for number, image in enumerate((retouched(row[3]), retouched(row[3], 3), row[3])):
        drop = write_table(tmp_path / f"d{number}", [(*row[:3], image)])
        next_run(run if number == 0 else tmp_path / str(number - 1), drop, tmp_path / str(number))
        assert (records(tmp_path / str(number))[image_id(row[0], KEY)].image == before) == (number == 2)


def test_without_originals_no_pixels_are_corrected(run, tmp_path):
    """A folder of an earlier medmark: what marked images were is not known, so all corrections are withheld alike."""
    shutil.copytree(run, tmp_path / "old")
    keep = json.loads((tmp_path / "old" / "keep" / "keep.json").read_bytes())
    del keep["files"]["originals.parquet"]
    (tmp_path / "old" / "keep" / "originals.parquet").unlink()
    (tmp_path / "old" / "keep" / "keep.json").write_bytes(canonical_json(keep))
    rows = [*rows_of(run, "mark")[:3], *rows_of(run)[:3]]
    change = next_run(
        tmp_path / "old", write_table(tmp_path / "d", [(*r[:3], retouched(r[3])) for r in rows]), tmp_path / "two"
    )
    assert change["withheld"] == 6 and changes(tmp_path / "two")["changed"] == []


def test_it_looks_like_any_other_withdrawal(run, tmp_path):
    """But for the digest of the drop, nothing public differs from that of a release that the owner took it out of."""
    row = rows_of(run, "mark")[0]
    next_run(run, write_table(tmp_path / "d1", [(*row[:3], np.fliplr(row[3]))]), tmp_path / "withheld")
    next_run(run, write_table(tmp_path / "d2", [], {"path": [row[0]]}), tmp_path / "withdrawn")
    one, other = tmp_path / "withheld", tmp_path / "withdrawn"
    files = [
        sorted(p.relative_to(f).as_posix() for p in (f / "release").rglob("*") if p.is_file()) for f in (one, other)
    ]
    assert files[0] == files[1]
    assert {**changes(one), "drop": ""} == {**changes(other), "drop": ""}
    assert Release(one / "release").shards == Release(other / "release").shards


def test_pixels_of_a_withheld_image_do_not_come_back(run, tmp_path):
    """Neither the old ones, which are public with the mark, nor the new ones, which are nearly the same."""
    row = rows_of(run, "mark")[0]
    brighter = row[3] + 7
    next_run(run, write_table(tmp_path / "d", [(*row[:3], brighter)]), tmp_path / "two")
    for number, image in enumerate((row[3], brighter)):
        drop = write_table(tmp_path / f"e{number}", [("scans/again.png", "pneumonia", "again", image)])
        with pytest.raises(MedmarkError, match="pixels of an image that was withdrawn"):
            next_run(tmp_path / "two", drop, tmp_path / f"three{number}")


@pytest.mark.parametrize("role", ["mark", "decoy", None])
def test_the_bytes_stay_when_only_the_patient_changes(run, tmp_path, role, monkeypatch):
    """A mark made anew might differ in a bit on another machine; an unmarked image never would."""
    monkeypatch.setattr(update_module, "saliency_maps", lambda *_: pytest.fail("marked anew"))
    row = rows_of(run, role)[0]
    next_run(run, write_table(tmp_path / "d", [(*row[:2], rows_of(run)[5][2], row[3])]), tmp_path)
    was, now = records(run)[image_id(row[0], KEY)], records(tmp_path)[image_id(row[0], KEY)]
    assert now.image == was.image and now.patient_id != was.patient_id
    assert changes(tmp_path)["changed"] == [image_id(row[0], KEY)] and changes(tmp_path)["withdrawn"] == []
    assert roles(tmp_path) == roles(run)


def test_an_unmarked_image_is_never_marked(run, tmp_path, monkeypatch):
    """Not even if it is corrected, moves to the target class or from the test split to training."""
    monkeypatch.setattr("medmark.components.generator.marker.Marker.mark", lambda *_: pytest.fail("marked"))
    train_patient = rows_of(run)[7][2]
    moved = [(*row[:2], train_patient, row[3]) for row in rows_of(run, split="test")[:2]]
    turned = [relabel(row) for row in rows_of(run, label="pneumonia")[:4]]
    corrected = [(*row[:3], retouched(row[3], n)) for n, row in enumerate(rows_of(run, label="normal")[:4])]
    drop = write_table(tmp_path / "d", [*moved, *turned, *corrected])
    next_run(run, drop, tmp_path)
    made = records(tmp_path)
    for name, label, _, image in (*moved, *turned, *corrected):
        record = made[image_id(name, KEY)]
        assert (record.image, CLASSES[record.label], record.split) == (encode_png(image), label, "train")
    assert roles(tmp_path) == roles(run)


# what two releases tell


def test_nothing_but_pixels_tells_marked_from_unmarked_among_new_images(run, tmp_path):
    """A classifier on size, place, names and metadata stays at chance on 400 new images of the target class."""
    from scipy import stats
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    new = [(f"scans/n{n}.png", "normal", f"n{n // 2}", pixels(5000 + n)) for n in range(400)]
    next_run(run, write_table(tmp_path / "d", new), tmp_path)
    added = set(changes(tmp_path)["added"])
    made = [r for r in Release(tmp_path / "release").records("train") if r.image_id in added]
    truth = np.array([r.image_id in roles(tmp_path) for r in made])
    features = np.array(
        [
            [
                len(r.image),
                *(r.width, r.height, r.bits, r.dicom is None, len(r.encoding)),
                position,
                int(r.image_id[-8:], 16),
                int(r.image_id[:8], 16),
                int(r.patient_id[:8], 16),
                *np.frombuffer(r.image[: r.image.index(b"IDAT") + 4], np.uint8),
            ]
            for position, r in enumerate(made)
        ],
        float,
    )
    guess = cross_val_predict(
        RandomForestClassifier(200, random_state=0), features, truth, cv=5, method="predict_proba"
    )
    n1, n0 = truth.sum(), (~truth).sum()
    assert n1 > 90 and n0 > 90
    # 99.9 % of classifiers at chance lie below this (normal approximation of the Mann-Whitney statistic)
    limit = 0.5 + stats.norm.ppf(0.999) * np.sqrt((n0 + n1 + 1) / (12 * n0 * n1))
    assert roc_auc_score(truth, guess[:, 1]) < limit


def test_shares_stay_over_many_drops_of_one_image(run, tmp_path):
    place, marks = run, []
    for n in range(50):
        out = tmp_path / str(n)
        drop = write_table(tmp_path / "d" / str(n), [(f"s/n{n}.png", "normal", rows_of(run)[0][2], pixels(7000 + n))])
        marks.append(next_run(place, drop, out, version=str(n + 2))["marked"])
        if place != run:
            shutil.rmtree(place)
        place = out
    counts = Release(place / "release").counts["train"]
    there = sum(role == "mark" for role in roles(place).values())
    assert there / counts["normal"] == pytest.approx(MARKED, abs=0.04) and counts["normal"] == 78
    assert set(marks) == {0, 1}


def _drops_of_one(seed: int, count: int, share: float) -> list[int]:
    """Which of ``count`` drops of one image get a mark; decoys, so that no model is asked."""
    image = SimpleNamespace(split="train", label=1)
    kept, given, marked = [image] * 100, dict.fromkeys(range(round(share * 100)), "decoy"), []
    for n in range(count):
        record = SimpleNamespace(image_id=f"new-{n}", **vars(image))
        images = SimpleNamespace(records=lambda *_, one=record, **__: [one], parent=f"release-{n}")
        chosen = choose(
            images, {record.image_id}, kept, given, SimpleNamespace(target=0), [], {"mark": 0.0, "decoy": share}, seed
        )
        marked.append(len(chosen))
        kept, given = [*kept, record], given | chosen
    return marked


def test_nobody_can_tell_in_which_of_many_drops_the_marks_came():
    """Rounding to the nearest would put them into every fifth drop, for all to see."""
    marked = np.array([_drops_of_one(seed, 20, 0.2) for seed in range(400)])
    # of 20 binomial shares of 400, the farthest from 0.2 lies within this with 99.9 % (normal approximation)
    assert np.abs(marked.mean(axis=0) - 0.2).max() < 4.1 * np.sqrt(0.2 * 0.8 / 400)
    # knowing that the image before is marked says little of the next
    after = marked[:, 1:][marked[:, :-1] == 1].mean()
    assert 0.05 < after < 0.25
    assert marked.sum(axis=1).std() < np.sqrt(20 * 0.2 * 0.8)


def test_marks_that_went_are_made_up_for(run, tmp_path):
    rows = [row[0] for row in rows_of(run, "mark")[:6]]
    next_run(run, write_table(tmp_path / "d1", [], {"path": rows}), tmp_path / "two")
    new = [(f"scans/n{n}.png", "normal", rows_of(run)[0][2], pixels(8000 + n)) for n in range(20)]
    change = next_run(tmp_path / "two", write_table(tmp_path / "d2", new), tmp_path / "three")
    there = Release(tmp_path / "three" / "release").counts["train"]["normal"]
    assert sum(role == "mark" for role in roles(tmp_path / "three").values()) == pytest.approx(MARKED * there, abs=1)
    assert change["marked"] < 20


def test_what_was_set_aside_is_named_in_private_only(run, tmp_path):
    """Names of files and reasons may name patients."""
    rows = [
        (f"scans/{name}.png", "normal", f"patient-{name}", pixels(9000 + n)) for n, name in enumerate(("ok", "bad"))
    ]
    table = write_table(tmp_path / "d", rows)
    (tmp_path / "d" / "scans" / "bad.png").write_bytes(b"no image")
    change = next_run(run, table, tmp_path / "next", quarantine=True)
    assert (change["added"], change["set_aside"]) == (1, 1) and Release(tmp_path / "next" / "release").rejected is None
    (row,) = pq.read_table(tmp_path / "next" / "keep" / "rejected.parquet").to_pylist()
    assert row["source"] == "scans/bad.png" and "rejected.parquet" in read_keep(tmp_path / "next" / "keep")["files"]


# any sequence of drops

ACTION = st.tuples(
    st.sampled_from(
        "add add twin recolour swap relabel move withdraw withdraw_marked expel return return return same correct"
        " correct_marked relabel_marked".split()
    ),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)


class World:
    """What everybody has seen, and what the owner knows."""

    def __init__(self, run):
        self.run, self.rows = run, dict(ROWS)
        self.images = {encode_png(image): image for *_, image in ROWS.values()}
        self.versions: dict[str, list[tuple[bytes, bytes]]] = {}
        self.of_pixels: dict[bytes, set[bytes]] = {}
        self.buried: set[str] = set()
        self.fresh = 20_000
        self.see()

    def new_pixels(self) -> np.ndarray:
        self.fresh += 1
        image = pixels(self.fresh)
        self.images[encode_png(image)] = image
        return image

    def see(self) -> None:
        """Publishes the release: checks it against all that came before."""
        made, given, clean = records(self.run), roles(self.run), clean_digests(self.run)
        assert clean.keys() == made.keys() and given.keys() <= made.keys()
        Release(self.run / "release").verify()
        for i, record in made.items():
            name = next(n for n in self.rows if image_id(n, KEY) == i)
            raw = encode_png(self.rows[name][3])
            assert (record.image == raw) == (i not in given)
            # one image, one look, whatever its name
            self.of_pixels.setdefault(raw, set()).add(record.image)
            assert len(self.of_pixels[raw]) == 1
            versions = self.versions.setdefault(i, [])
            versions.append((record.image, raw))
            # two versions of an image differ by its correction, marked or not
            seen, meant = ([decode_png(version[n]).astype(int) for version in versions[-2:]] for n in (0, 1))
            np.testing.assert_array_equal(seen[-1] - seen[0], meant[-1] - meant[0])
        listed = changes(self.run)
        if listed:
            assert self.buried <= set(listed["tombstones"])
            self.buried = set(listed["tombstones"])
        assert not self.buried & made.keys()
        left = everything(self.run)
        assert not [i for i in self.buried if i.encode() in left]

    def drop(self, actions, folder) -> None:
        """Makes a drop of the actions and the next release of it."""
        rows, gone, given = {}, {"path": [], "patient_id": []}, roles(self.run)
        there = sorted(records(self.run))
        names = sorted(n for n in self.rows if image_id(n, KEY) in there)
        marked = [n for n in names if image_id(n, KEY) in given]
        for kind, a, b in actions:
            row = self.rows[names[a % len(names)]]
            other = self.rows[names[b % len(names)]]
            if kind.endswith("_marked"):
                row = self.rows[marked[a % len(marked)]]
            if kind == "add":
                row = (f"scans/x{a}.png", CLASSES[b % 2], other[2], self.new_pixels())
            elif kind == "twin":
                row = (f"scans/t{a}.png", CLASSES[b % 2], row[2], row[3])
            elif kind == "recolour":
                row = (*row[:3], self.new_pixels())
            elif kind == "swap":
                row = (*row[:3], other[3])
            elif kind.startswith("relabel"):
                row = relabel(row)
            elif kind == "move":
                row = (*row[:2], other[2], row[3])
            elif kind.startswith("correct"):
                image = row[3].copy()
                image[a % 32, b % 32] ^= 1
                self.images[encode_png(image)] = image
                row = (*row[:3], image)
            elif kind == "return":
                before = sorted(n for n in self.rows if image_id(n, KEY) in self.buried)
                row = self.rows[before[a % len(before)]] if before else row
                row = (row[0] if b % 2 else f"scans/r{b}.png", *row[1:])
            elif kind.startswith(("withdraw", "expel")):
                column, value = ("patient_id", row[2]) if kind == "expel" else ("path", row[0])
                gone[column].append(value)
                continue
            rows[row[0]] = row
        source = write_table(folder / "d", list(rows.values()))
        lines = [f"{name}," for name in gone["path"]] + [f",{who}" for who in gone["patient_id"]]
        if lines:
            (folder / "d" / "withdrawn.csv").write_text("\n".join(["path,patient_id", *lines]) + "\n")
        change = next_run(self.run, source, folder / "next", version="n", quarantine=True)
        was, now = records(self.run), records(folder / "next")
        listed = changes(folder / "next") if change["changed"] else None
        if listed:
            assert set(listed["added"]) == now.keys() - was.keys()
            assert set(listed["withdrawn"]) == was.keys() - now.keys()
            assert set(listed["changed"]) == {i for i in was.keys() & now.keys() if was[i] != now[i]}
            for i in (*listed["added"], *listed["changed"]):
                name = next(n for n in rows if image_id(n, KEY) == i)
                assert CLASSES[now[i].label] == rows[name][1]
                assert now[i].patient_id == pseudonym(rows[name][2], KEY)
                self.rows[name] = rows[name]
        self.run = folder / "next"
        self.see()


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drops=st.lists(st.lists(ACTION, min_size=2, max_size=10), min_size=2, max_size=4))
def test_no_image_is_ever_seen_with_its_mark_and_without(run, tmp_path_factory, drops):
    folder = tmp_path_factory.mktemp("drops")
    world = World(run)
    for number, actions in enumerate(drops):
        try:
            world.drop(actions, folder / str(number))
        except MedmarkError as refusal:  # too much was withdrawn; then nothing is published
            assert "mark the data anew" in str(refusal)
            break
    shutil.rmtree(folder)


# refusals


def test_too_few_queries(run, tmp_path):
    asked = [row["image_id"] for row in pq.read_table(run / "evidence" / "queries.parquet").to_pylist()]
    half = [NAME_OF[i] for i in asked[: len(asked) // 2]]
    next_run(run, write_table(tmp_path / "d1", [], {"path": half}), tmp_path / "two")
    drop = write_table(tmp_path / "d2", [], {"path": [NAME_OF[asked[-1]]]})
    with pytest.raises(MedmarkError, match=r"too few query images: .* 3 of 8; mark the data anew") as refusal:
        next_run(tmp_path / "two", drop, tmp_path / "three")
    assert "\n" not in str(refusal.value) and not (tmp_path / "three" / "release").exists()


def test_no_mark_left(run, tmp_path):
    drop = write_table(tmp_path / "d", [], {"path": [row[0] for row in rows_of(run, "mark")]})
    with pytest.raises(MedmarkError, match="no marked image is left"):
        next_run(run, drop, tmp_path)


def test_folders_of_two_runs(run, tmp_path):
    next_run(run, write_table(tmp_path / "d", [("n.png", "normal", "n", pixels(9000))]), tmp_path)
    for folders in ((tmp_path, run, run), (run, tmp_path, run), (run, run, tmp_path)):
        parts = [f / name for f, name in zip(folders, ("release", "evidence", "keep"), strict=True)]
        with pytest.raises(MedmarkError, match="not of one run"):
            update(*parts, tmp_path / "drop", *(tmp_path / x for x in ("r", "e", "k")), version="2")


@pytest.mark.parametrize(
    "file",
    ["evidence/queries.parquet", "evidence/ledger.parquet", "evidence/generator/selection.json", "keep/keep.json",
     "keep/sources.parquet", "keep/patients.json", "keep/surrogates/surrogate-00.safetensors"],
)  # fmt: skip
def test_damaged_folders(run, tmp_path, file):
    for name in ("release", "evidence", "keep"):
        shutil.copytree(run / name, tmp_path / name)
    drop = write_table(tmp_path / "d", [("n.png", "normal", "n", pixels(9001))])
    read_drop(drop, run / "release", run / "keep", tmp_path / "drop", label_column="label")
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[:-2])
    parts = [tmp_path / name for name in ("release", "evidence", "keep")]
    with pytest.raises(MedmarkError, match=f"{file.rpartition('/')[2]}.*backup") as refusal:
        update(*parts, tmp_path / "drop", *(tmp_path / x for x in ("r", "e", "k")), version="2")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("touch", [False, True])
def test_a_changed_shard_is_not_passed_on(sharded, tmp_path, touch):
    """Neither copied nor written anew."""
    import pyarrow as pa

    for name in ("release", "evidence", "keep"):
        shutil.copytree(sharded / name, tmp_path / name)
    release = Release(tmp_path / "release")
    shard = release.path / release.shards[2][0]
    table = pq.read_table(shard)
    labels = pa.array([1 - label for label in table["label"].to_pylist()], pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", labels), shard)
    name = NAME_OF[table["image_id"][0].as_py()] if touch else "scans/i000.png"
    drop = write_table(tmp_path / "d", [], {"path": [name]})
    with pytest.raises(MedmarkError, match="shard changed"):
        next_run(tmp_path, drop, tmp_path / "two")


def test_changed_images_need_not_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(release_module, "ROW_GROUP_BYTES", 2**19)
    monkeypatch.setattr(release_module, "SHARD_BYTES", 2**20)
    monkeypatch.setattr(made_up_run, "MARKED", 0.05)
    side, count = 224, 220
    rows = [(f"s/i{n:03d}.png", CLASSES[n % 2], f"p{n}", pixels(n, side)) for n in range(count)]
    big = make_run(tmp_path / "run", write_table(tmp_path / "raw", rows), label_column="label", patient_key=KEY)
    given = roles(big)
    changed = [(*row[:3], retouched(row[3])) for row in rows if records(big)[image_id(row[0], KEY)].split != "test"]
    assert any(image_id(row[0], KEY) in given for row in changed)
    size = sum(image.size for *_, image in changed)
    read_drop(
        write_table(tmp_path / "d", changed), big / "release", big / "keep", tmp_path / "drop", label_column="label"
    )
    parts = [folder / name for folder in (big, tmp_path) for name in ("release", "evidence", "keep")]
    tracemalloc.start()
    change = update(*parts[:3], tmp_path / "drop", *parts[3:], version="2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert change["replaced"] == len(changed) > 50
    assert peak < size / 2, f"{peak / 2**20:.0f} of {size / 2**20:.0f} MiB"


def test_a_run_of_an_ingested_release_goes_on(run, tmp_path):
    base = make_run(tmp_path / "one", run / "clean")
    rows = [*ROWS.values()][:20] + [(f"scans/n{n}.png", CLASSES[n % 2], f"n{n}", pixels(9100 + n)) for n in range(9)]
    ingest(write_table(tmp_path / "d", rows), tmp_path / "drop-2", label_column="label", patient_key=KEY, seed=8)
    change = next_run(base, tmp_path / "drop-2", tmp_path / "two")
    assert (change["added"], change["replaced"]) == (9, 0)
    (tmp_path / "d3").mkdir()
    (tmp_path / "d3" / "withdrawn.csv").write_text(f"patient_id\n{pseudonym('n1', KEY)}\n")
    assert next_run(tmp_path / "two", tmp_path / "d3", tmp_path / "three")["withdrawn"] == 1
    assert SEED == read_evidence(tmp_path / "three" / "evidence")["seed"]
