"""A data card of a release in Croissant 1.1, which search engines and loaders of data sets read."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

import mlcroissant as mlc
from medmark.components.base.digests import HEX, canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.release import SPLITS, Release
from medmark.components.lineage.chain import MAX_RELEASES
from medmark.components.lineage.files import write_new

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PROV = "http://www.w3.org/ns/prov#"
PARQUET = "application/x-parquet"
FIELDS = {
    "image_id": (mlc.DataType.TEXT, "Unique name of the image."),
    "image": (mlc.DataType.IMAGE_OBJECT, "The image as PNG, grey, 8 or 16 bits."),
    "label": (mlc.DataType.INTEGER, "Class; see the record set classes."),
    "patient_id": (mlc.DataType.TEXT, "Pseudonym; all images of one patient lie in one split."),
    "split": (mlc.DataType.TEXT, "train, val or test."),
    "width": (mlc.DataType.INTEGER, "Pixels."),
    "height": (mlc.DataType.INTEGER, "Pixels."),
    "bits": (mlc.DataType.INTEGER, "Significant bits of a stored value, 1 to 16."),
    "sha256": (mlc.DataType.TEXT, "Hex digest of the image's bytes."),
    "dicom": (mlc.DataType.TEXT, "JSON of the display attributes of a DICOM source; may be missing."),
}
MASK_FIELDS = {
    "mask": (mlc.DataType.IMAGE_OBJECT, "The mask as PNG, as large as the image: 0 for background, 1 for foreground."),
    "mask_sha256": (mlc.DataType.TEXT, "Hex digest of the mask's bytes."),
}


def write_card(
    release_dir: str | Path,
    out: str | Path,
    *,
    url: str | None = None,
    license_: str | None = None,
    root: str | Path | None = None,
) -> dict:
    """Writes ``croissant.json``.

    Loaders find the shards beside it: put it into the release's folder, also when it was fetched from ``url``.

    Args:
        release_dir: the marked release.
        out: file to write.
        url: of the release's folder as published; files are then named by their full address.
        license_: name or URL; the card names none when None.
        root: folder with the earlier releases, each in a folder named by its digest; the folder above the release when None.

    Returns:
        Its content.

    Raises:
        MedmarkError: an address that is none, a release that mlcroissant cannot describe, or the file exists.
    """
    release = Release(release_dir)
    card = make_card(release, url=url, license_=license_, root=Path(root) if root is not None else None)
    write_new(out, canonical_json(card), 0o644)
    return card


def make_card(release: Release, *, url: str | None, license_: str | None, root: Path | None) -> dict:
    """The content; see :func:`write_card`."""
    base = f"{_checked(url).rstrip('/')}/" if url else ""
    files = [
        mlc.FileObject(
            id=name,
            name=name,
            content_url=f"{base}{name}",
            content_size=f"{_size(release.path / name)} B",
            encoding_formats=[PARQUET],
            sha256=sha256,
        )
        for name, sha256, _ in release.shards
    ]
    shards = mlc.FileSet(id="shards", name="shards", encoding_formats=[PARQUET], includes=["shards/*.parquet"])
    fields = [
        mlc.Field(
            id=f"images/{name}",
            name=name,
            description=description,
            data_types=[kind],
            source=mlc.Source(file_set="shards", extract=mlc.Extract(column=name)),
        )
        for name, (kind, description) in (FIELDS | (MASK_FIELDS if release.task == "segmentation" else {})).items()
    ]
    classes = [{"classes/label": label, "classes/name": name} for label, name in enumerate(release.class_names)]
    splits = [{"splits/name": split, "splits/images": sum(release.counts[split].values())} for split in SPLITS]
    integer, text = mlc.DataType.INTEGER, mlc.DataType.TEXT
    quiet = logging.getLogger("absl")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # mlcroissant recommends dates, citations and licences, which only the owner knows
    try:
        card = mlc.Metadata(
            name=release.name,
            description=f"{len(release)} images in {len(release.class_names)} classes: {', '.join(release.class_names)}.",
            version=release.version,
            url=url,
            license=[license_] if license_ else None,
            conforms_to=[CONFORMS_TO],
            distribution=[*files, shards],
            record_sets=[
                mlc.RecordSet(id="images", name="images", key=["images/image_id"], fields=fields),
                _table("classes", {"label": integer, "name": text}, classes),
                _table("splits", {"name": text, "images": integer}, splits),
            ],
        ).to_json()
        card["@context"]["prov"] = PROV
        card["identifier"] = _identifier(release.digest)
        card |= _derived(release, root or release.path.resolve().parent)
        mlc.Dataset(card)
    except (mlc.ValidationError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise MedmarkError(
            f"no data card can be made of {release.path} ({reason}); rename data set or classes"
        ) from error
    finally:
        quiet.setLevel(level)
    return card


def _table(name: str, columns: dict, rows: list[dict]) -> mlc.RecordSet:
    fields = [mlc.Field(id=f"{name}/{column}", name=column, data_types=[kind]) for column, kind in columns.items()]
    return mlc.RecordSet(id=name, name=name, key=[fields[0].id], fields=fields, data=rows)


def _derived(release: Release, root: Path) -> dict:
    """The releases before it, nearest first, and last the clean one; only digests, where they are not at hand."""
    found, seen = [], set()
    while isinstance(release.parent, str) and HEX.fullmatch(release.parent) and release.parent not in seen:
        seen.add(release.parent)
        entry = {"@id": _identifier(release.parent)}
        folder = root / release.parent
        known = release.changes is not None and len(seen) < MAX_RELEASES and (folder / "release.json").is_file()
        parent = Release(folder) if known else None
        if parent is not None and parent.digest != release.parent:
            raise MedmarkError(f"release.json changed: {folder}; get the release again")
        if parent is not None:
            entry |= {"name": parent.name, "version": parent.version}
        found.append(entry)
        if parent is None:
            break
        release = parent
    if not found:
        return {}
    return {"isBasedOn": [entry["@id"] for entry in found], "prov:wasDerivedFrom": found}


def _identifier(digest: str) -> str:
    return f"urn:medmark:release:sha256:{digest}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise MedmarkError(f"shard missing: {path}; get the release again") from error


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https", "s3") and parts.hostname and not (parts.username or parts.password)
    except ValueError:
        fine = False
    if not fine or not url.isprintable() or "?" in url or "#" in url or " " in url:
        raise MedmarkError(
            "the release's address is malformed; give https://host/path or s3://bucket/prefix and no more"
        )
    return url
