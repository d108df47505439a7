"""``medmark keys``, ``commit``, ``reveal``, ``verify-commitment`` and ``lineage``: what is signed about a release."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.audit import time_stamp
from medmark.pipelines.commands.options import Beacon, Debug, PublicKey

app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="Make keys that sign commitments and lineages.")
app.add_typer(keys_app, name="keys")
lineage_app = typer.Typer(no_args_is_help=True, help="Sign, check and show where a release came from.")
app.add_typer(lineage_app, name="lineage")

Chain = Annotated[str, typer.Argument(help="The marked release or model: a folder, or s3://bucket/prefix/DIGEST.")]
ChainRoot = Annotated[
    str | None,
    typer.Option("--root", help="Folder with the earlier releases; the one above this release if not given."),
]
StampRoots = Annotated[
    str | None,
    typer.Option("--timestamp-roots", help="PEM file with the root certificates of the time stamp authority."),
]
BESIDE = "give only the address of the newest release; the earlier ones are looked for beside it"
OWN_KEY = "a private key belongs in no object store"


@keys_app.command("new")
def keys_new(
    out: Annotated[str, typer.Option("--out", help="Folder to write medmark.key and medmark.pub to.")],
    locking: Annotated[
        bool, typer.Option("--locking", help="Make locking.key and locking.pub, which open locked releases, instead.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Make a signing key, or one that opens locked releases.

    The environment variable MEDMARK_KEY_PASSPHRASE gives its passphrase; without it, medmark asks.
    """
    from medmark.components.delivery.places import local
    from medmark.components.lineage.keys import ask_passphrase, new_key

    folder = local(out, OWN_KEY)
    print(f"key id: {new_key(folder, ask_passphrase(twice=True), locking=locking)}")
    name = "locking" if locking else "medmark"
    print(f"private: {folder / f'{name}.key'}\npublic: {folder / f'{name}.pub'}")


@keys_app.command("draw")
def keys_draw(
    file: Annotated[
        str, typer.Argument(help="Private JSON file to write; its public commitment is written beside it.")
    ],
    beacon: Annotated[
        str | None,
        typer.Option(
            "--beacon",
            help="Public beacon whose future value completes the drawing, and its round or time, as others will look it up. The"
            " time stamp completes it if not given.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Start to draw the key of a mark so that others can check that nobody chose it.

    Have the commitment stamped, then mark the release with --drawing and --drawn-with. This command asks nobody over the network.
    """
    from medmark.components.delivery.places import local
    from medmark.components.lineage.drawing import new_drawing, stamp_of

    private = local(file, "make it here, then store it in the evidence's bucket")
    public, stamp = new_drawing(private, beacon=beacon), stamp_of(private)
    print(f"private: {private}\npublic, publish it now: {public}")
    print("next, have it stamped by an RFC 3161 time stamp authority:")
    print(f"  openssl ts -query -data {shlex.quote(str(public))} -sha256 -cert -out request.tsq")
    print(
        "  curl -H 'Content-Type: application/timestamp-query' --data-binary @request.tsq"
        f" -o {shlex.quote(str(stamp))} http://AUTHORITY"
    )
    value = shlex.quote(str(stamp))
    if beacon is not None:
        print(f"then, not before the stamp is there, get the value of {beacon!r} into a file")
        value = "VALUE"
    print(f"then: medmark run mark-release --drawing {shlex.quote(str(private))} --drawn-with {value} ...")


@app.command("commit")
def commit_command(
    release: Annotated[str, typer.Argument(help="The marked release or model, before it goes out.")],
    evidence: Annotated[str, typer.Argument(help="Folder with its evidence; opening.json is added to it.")],
    key: Annotated[str, typer.Option("--key", help="The medmark.key that 'medmark keys new' made.")],
    out: Annotated[str, typer.Option("--out", help="JSON file to write; publish it.")] = "commitment.json",
    timestamp_url: Annotated[
        str | None, typer.Option("--timestamp-url", help="Address of an RFC 3161 time stamp authority.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Commit to the evidence of a release or model before it goes out: sign and date a digest of it.

    The environment variable MEDMARK_KEY_PASSPHRASE gives the passphrase of the key; without it, medmark asks.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.commitment import commit
    from medmark.components.lineage.keys import ask_passphrase, load_private

    private = load_private(local(key, OWN_KEY), ask_passphrase())
    folder = local(evidence, "it gets opening.json; commit first, then use 'medmark publish-evidence'")
    with Places() as places:
        file = places.write(out, file=True)
        result = commit(places.read(release), folder, private, file, timestamp_url=timestamp_url)
    print_commitment(result)
    print(f"publish: {out}" + (f" and {out.removesuffix('.json')}.tsr" if timestamp_url else ""))
    print(f"keep, and back up: {folder / 'opening.json'}")


@app.command("reveal")
def reveal_command(
    commitment: Annotated[str, typer.Argument(help="The published commitment.json.")],
    evidence: Annotated[str, typer.Argument(help="The evidence, with its opening.json.")],
    out: Annotated[str, typer.Option("--out", help="JSON file to write; give it to the judge only.")] = "reveal.json",
    debug: Debug = False,
) -> None:
    """Write the file that lets a judge check a commitment without seeing the images of the evidence."""
    from medmark.components.delivery.places import Places
    from medmark.components.lineage.commitment import reveal

    with Places() as places:
        file = places.write(out, file=True, private=True)
        reveal(places.read(commitment, raw=True), places.read(evidence, private=True), file)
    print(f"for the judge only: {out}")


@app.command("verify-commitment")
def verify_commitment_command(
    commitment: Annotated[str, typer.Argument(help="The published commitment.json.")],
    public_key: PublicKey,
    release: Annotated[str | None, typer.Option("--release", help="Check that it is about this release.")] = None,
    evidence: Annotated[
        str | None, typer.Option("--evidence", help="Check it against this evidence, which needs its opening.json.")
    ] = None,
    reveal: Annotated[
        str | None, typer.Option("--reveal", help="Check it against this file of 'medmark reveal'.")
    ] = None,
    timestamp_roots: StampRoots = None,
    beacon: Beacon = None,
    debug: Debug = False,
) -> None:
    """Check a commitment. The exit code is 0 if everything that was given holds, and 1 if not."""
    from medmark.components.base.errors import MedmarkError
    from medmark.components.dataset.release import Release
    from medmark.components.delivery.places import Places
    from medmark.components.lineage.commitment import verify_commitment, verify_reveal
    from medmark.components.lineage.drawing import check_draw
    from medmark.components.lineage.keys import load_public

    if beacon and not evidence:
        raise MedmarkError("a beacon's value without the evidence that was drawn with it; give --evidence, too")
    with Places() as places:
        file = places.read(commitment, raw=True, beside=time_stamp(commitment))
        key = load_public(places.read(public_key, raw=True))
        folder = places.read(evidence, private=True) if evidence else None
        roots = places.read(timestamp_roots, raw=True) if timestamp_roots else None
        result = verify_commitment(
            file,
            key,
            release_digest=Release(places.read(release)).digest if release else None,
            evidence_dir=folder,
            timestamp_roots=roots,
        )
        value = places.read(beacon, raw=True) if beacon else None
        draw = check_draw(folder, timestamp_roots=roots, beacon=value) if folder else None
        if reveal:
            shown = places.read(reveal, raw=True, private=True)
            result["evidence_checked"] = verify_reveal(shown, file, key)["evidence_checked"]
    print_commitment(result)
    if draw:
        print(f"key of the mark: {draw.says}")


def print_commitment(result: dict) -> None:
    """Prints what a commitment says, and what was checked."""
    print(f"release: {result['release_name']}, {result['release_digest']}")
    print(f"signed with the key: {result['key_id']}")
    print(f"evidence: {'what was committed to' if result['evidence_checked'] else 'not compared'}")
    print(f"time: {result['time_says']}")


@lineage_app.command("sign")
def lineage_sign(
    release: Annotated[
        str, typer.Argument(help="Folder with the marked release or model; lineage.json is added to it.")
    ],
    record: Annotated[str, typer.Option("--record", help="The record.json of the run that made it.")],
    key: Annotated[str, typer.Option("--key", help="The medmark.key that 'medmark keys new' made.")],
    commitment: Annotated[
        str | None,
        typer.Option(
            "--commitment",
            help="The commitment.json of its evidence; it is copied into the release, with its time stamp.",
        ),
    ] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", help="The previous marked release, if this one updates it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Sign where a release or marked model came from, before it goes out.

    The environment variable MEDMARK_KEY_PASSPHRASE gives the passphrase of the key; without it, medmark asks.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.keys import ask_passphrase, load_private
    from medmark.components.lineage.record import sign_lineage

    folder = local(release, "it gets lineage.json; sign first, then use 'medmark publish'")
    private = load_private(local(key, OWN_KEY), ask_passphrase())
    with Places() as places:
        made = sign_lineage(
            folder,
            places.read(record, raw=True),
            private,
            commitment=places.read(commitment, raw=True, beside=time_stamp(commitment)) if commitment else None,
            parent=places.read(parent) if parent else None,
        )
    print(f"signed: {made.path}\nkey: {made.signed_by}")


@lineage_app.command("verify")
def lineage_verify(
    release: Chain,
    public_key: PublicKey,
    root: ChainRoot = None,
    timestamp_roots: StampRoots = None,
    raw: Annotated[
        str | None, typer.Option("--raw", help="Also check this raw drop of the first release; needs --sources.")
    ] = None,
    sources: Annotated[
        str | None, typer.Option("--sources", help="The sources.parquet of the first release's keep.")
    ] = None,
    clean: Annotated[
        str | None, typer.Option("--clean", help="Also check this clean release, which was marked first.")
    ] = None,
    json_: Annotated[str | None, typer.Option("--json", help="JSON file to write every check to.")] = None,
    debug: Debug = False,
) -> None:
    """Check a release and all releases before it, or a marked model. The exit code is 0 only if everything holds."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.chain import on_this_machine, verify_chain
    from medmark.components.lineage.keys import load_public

    with Places() as places:
        checks = places.write(json_, file=True) if json_ else None
        key = load_public(places.read(public_key, raw=True))
        options = {
            "timestamp_roots": places.read(timestamp_roots, raw=True) if timestamp_roots else None,
            "raw": places.read(raw, raw=True) if raw else None,
            "sources": places.read(sources, raw=True, private=True) if sources else None,
            "clean": places.read(clean) if clean else None,
        }
        with on_this_machine(release, local(root, BESIDE) if root else None) as (folder, above):
            result = verify_chain(folder, key, root=above, **options)
        write_checks(result, checks)
    print_chain(result)


@lineage_app.command("show")
def lineage_show(
    release: Chain,
    root: ChainRoot = None,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", help="The owner's medmark.pub; signatures are not checked if not given."),
    ] = None,
    timestamp_roots: StampRoots = None,
    html: Annotated[str | None, typer.Option("--html", help="HTML file to write, with a picture.")] = None,
    json_: Annotated[str | None, typer.Option("--json", help="JSON file to write every check to.")] = None,
    debug: Debug = False,
) -> None:
    """Show what a release or marked model was made from. The exit code is 1 if anything is broken."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.chain import on_this_machine, verify_chain
    from medmark.components.lineage.graph import write_lineage_report
    from medmark.components.lineage.keys import load_public

    with Places() as places:
        checks = places.write(json_, file=True) if json_ else None
        page = places.write(html, file=True) if html else None
        key = load_public(places.read(public_key, raw=True)) if public_key else None
        roots = places.read(timestamp_roots, raw=True) if timestamp_roots else None
        with on_this_machine(release, local(root, BESIDE) if root else None) as (folder, above):
            result = verify_chain(folder, key, root=above, timestamp_roots=roots)
        if page:
            write_lineage_report(page, result)
        write_checks(result, checks)
    print_chain(result)


@lineage_app.command("croissant")
def lineage_croissant(
    release: Annotated[str, typer.Argument(help="The marked release.")],
    out: Annotated[str, typer.Option("--out", help="JSON file to write, preferably in the release's folder.")],
    url: Annotated[
        str | None, typer.Option("--url", help="Address of the release's folder, if it is published.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Name or URL of the licence; the card names none if not given.")
    ] = None,
    root: ChainRoot = None,
    debug: Debug = False,
) -> None:
    """Write a Croissant data card for a release."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.croissant import write_card

    with Places() as places:
        card = places.write(out, file=True)
        write_card(places.read(release), card, url=url, license_=license_, root=local(root, BESIDE) if root else None)
    print(out)


def write_checks(result: dict, out: Path | None) -> None:
    """Writes every check as JSON."""
    from medmark.components.base.digests import canonical_json
    from medmark.components.lineage.files import write_new

    if out:
        write_new(out, canonical_json(result), 0o644)


def print_chain(result: dict) -> None:
    """Prints the chain as a tree; raises an error if anything is broken."""
    from medmark.components.base.errors import MedmarkError
    from medmark.components.lineage.graph import lineage_tree
    from rich.console import Console

    Console().print(lineage_tree(result))
    if result["broken"]:
        raise MedmarkError(f"{result['broken']['path']} does not hold: {result['broken']['says']}")
