import pytest
from medmark.components.dataset import codecs
from medmark.components.dataset.release import Release
from medmark.components.dataset.sample import sample


def contents(release: Release) -> dict:
    return {record.image_id: record for record in release.records()}


def test_patients_are_whole_and_images_as_they_were(release, tmp_path):
    drawn = sample(release, tmp_path / "s", train_images=30, seed=4)
    drawn.verify()
    whole, part = contents(Release(release)), contents(drawn)
    assert part.items() <= whole.items()
    patients = {record.patient_id for record in part.values()}
    assert set(part) == {i for i, record in whole.items() if record.patient_id in patients}
    assert drawn.parent == Release(release).digest


@pytest.mark.parametrize("wanted", [10, 30, 60])
def test_as_many_as_asked_and_other_splits_alike(release, tmp_path, wanted):
    source = Release(release)
    drawn = sample(release, tmp_path / "s", train_images=wanted, seed=4)
    share = wanted / sum(source.counts["train"].values())
    for split in ("train", "val", "test"):
        images = sum(drawn.counts[split].values())
        least = share * sum(source.counts[split].values())
        assert least <= images < least + 2  # a patient has two images at most


def test_a_small_release_is_taken_whole(release, tmp_path):
    drawn = sample(release, tmp_path / "s", train_images=2000, seed=4)
    assert contents(drawn) == contents(Release(release))


def test_the_seed_decides(release, tmp_path):
    drawn = [sample(release, tmp_path / str(n), train_images=20, seed=s) for n, s in enumerate((1, 1, 2))]
    assert drawn[0].digest == drawn[1].digest != drawn[2].digest


def test_nothing_is_decoded(release, tmp_path, monkeypatch):
    monkeypatch.setattr(codecs.Image, "open", lambda *_, **__: pytest.fail("decoded"))
    sample(release, tmp_path / "s", train_images=20, seed=0)
