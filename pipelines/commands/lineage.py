"""Keys, commitments, and where releases came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug, PublicKey

app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign commitments.")
app.add_typer(keys_app, name="keys")
lineage_app = typer.Typer(no_args_is_help=True, help="Where a release came from, signed and checked.")
app.add_typer(lineage_app, name="lineage")

Chain = Annotated[str, typer.Argument(help="Folder of a marked release, or s3://bucket/prefix/DIGEST.")]
ChainRoot = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of the earlier releases, if not the one that this release lies in."),
]
StampRoots = Annotated[
    Path | None, typer.Option("--timestamp-roots", help="PEM file of the time stamp authority's root.")
]


@keys_app.command("new")
def keys_new(
    out: Annotated[Path, typer.Option("--out", help="Folder for medmark.key and medmark.pub.")],
    debug: Debug = False,
) -> None:
    """Make a signing key.

    Its passphrase is read from the environment variable MEDMARK_KEY_PASSPHRASE, or asked for.
    """
    from medmark.components.lineage.keys import ask_passphrase, new_key

    print(f"key id: {new_key(out, ask_passphrase(twice=True))}")
    print(f"private: {out / 'medmark.key'}\npublic: {out / 'medmark.pub'}")


@app.command("commit")
def commit_command(
    release: Annotated[Path, typer.Argument(help="The marked release, before it goes out.")],
    evidence: Annotated[Path, typer.Argument(help="Its private evidence; gets opening.json.")],
    key: Annotated[Path, typer.Option("--key", help="medmark.key of 'medmark keys new'.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, to be published.")] = Path("commitment.json"),
    timestamp_url: Annotated[
        str | None, typer.Option("--timestamp-url", help="Of an RFC 3161 time stamp authority.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Commit to the evidence of a release, signed and dated.

    The key's passphrase is read from the environment variable MEDMARK_KEY_PASSPHRASE, or asked for.
    """
    from medmark.components.lineage.commitment import commit
    from medmark.components.lineage.keys import ask_passphrase, load_private

    result = commit(release, evidence, load_private(key, ask_passphrase()), out, timestamp_url=timestamp_url)
    print_commitment(result)
    print(f"publish: {out}" + (f" and {out.with_suffix('.tsr')}" if timestamp_url else ""))
    print(f"keep, and back up: {evidence / 'opening.json'}")


@app.command("reveal")
def reveal_command(
    commitment: Annotated[Path, typer.Argument(help="The published commitment.json.")],
    evidence: Annotated[Path, typer.Argument(help="The private evidence, with its opening.json.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, for the judge.")] = Path("reveal.json"),
    debug: Debug = False,
) -> None:
    """Write what a judge needs to check a commitment without the images of the evidence."""
    from medmark.components.lineage.commitment import reveal

    reveal(commitment, evidence, out)
    print(f"for the judge only: {out}")


@app.command("verify-commitment")
def verify_commitment_command(
    commitment: Annotated[Path, typer.Argument(help="The published commitment.json.")],
    public_key: PublicKey,
    release: Annotated[Path | None, typer.Option("--release", help="The release it must be about.")] = None,
    evidence: Annotated[Path | None, typer.Option("--evidence", help="Evidence with its opening.json.")] = None,
    reveal: Annotated[Path | None, typer.Option("--reveal", help="What 'medmark reveal' wrote.")] = None,
    timestamp_roots: Annotated[
        Path | None, typer.Option("--timestamp-roots", help="PEM file of the time stamp authority's root.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Check a commitment; the exit code is 0 if all that was given holds, else 1."""
    from medmark.components.dataset.release import Release
    from medmark.components.lineage.commitment import verify_commitment, verify_reveal
    from medmark.components.lineage.keys import load_public

    key = load_public(public_key)
    digest = Release(release).digest if release else None
    result = verify_commitment(
        commitment, key, release_digest=digest, evidence_dir=evidence, timestamp_roots=timestamp_roots
    )
    if reveal:
        result["evidence_checked"] = verify_reveal(reveal, commitment, key)["evidence_checked"]
    print_commitment(result)


def print_commitment(result: dict) -> None:
    """What a commitment says, and what of it was checked."""
    print(f"release: {result['release_name']}, {result['release_digest']}")
    print(f"signed with the key: {result['key_id']}")
    print(f"evidence: {'what was committed to' if result['evidence_checked'] else 'not compared'}")
    print(f"time: {result['time_says']}")


@lineage_app.command("sign")
def lineage_sign(
    release: Annotated[Path, typer.Argument(help="The marked release; gets lineage.json.")],
    record: Annotated[Path, typer.Option("--record", help="record.json of the run that made it.")],
    key: Annotated[Path, typer.Option("--key", help="medmark.key of 'medmark keys new'.")],
    commitment: Annotated[
        Path | None, typer.Option("--commitment", help="commitment.json; copied into the release, with its time stamp.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option("--parent", help="The previous marked release, if this one updates it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Sign where a release came from, before it goes out.

    The key's passphrase is read from the environment variable MEDMARK_KEY_PASSPHRASE, or asked for.
    """
    from medmark.components.lineage.keys import ask_passphrase, load_private
    from medmark.components.lineage.record import sign_lineage

    made = sign_lineage(release, record, load_private(key, ask_passphrase()), commitment=commitment, parent=parent)
    print(f"signed: {made.path}\nkey: {made.signed_by}")


@lineage_app.command("verify")
def lineage_verify(
    release: Chain,
    public_key: PublicKey,
    root: ChainRoot = None,
    timestamp_roots: StampRoots = None,
    raw: Annotated[Path | None, typer.Option("--raw", help="The first raw drop; needs --sources.")] = None,
    sources: Annotated[
        Path | None, typer.Option("--sources", help="sources.parquet of the first release's private keep.")
    ] = None,
    clean: Annotated[Path | None, typer.Option("--clean", help="The clean release that was marked first.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="File to write every check to.")] = None,
    debug: Debug = False,
) -> None:
    """Check a release and all before it; exit code 0 only if everything holds."""
    from medmark.components.lineage.chain import on_this_machine, verify_chain
    from medmark.components.lineage.keys import load_public

    key = load_public(public_key)
    with on_this_machine(release, root) as (folder, above):
        options = {"root": above, "timestamp_roots": timestamp_roots, "raw": raw, "sources": sources, "clean": clean}
        print_chain(verify_chain(folder, key, **options), json_)


@lineage_app.command("show")
def lineage_show(
    release: Chain,
    root: ChainRoot = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="The owner's medmark.pub; signatures are not checked without.")
    ] = None,
    timestamp_roots: StampRoots = None,
    html: Annotated[Path | None, typer.Option("--html", help="File to write a page with a picture to.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="File to write every check to.")] = None,
    debug: Debug = False,
) -> None:
    """Show what a release was made from; exit code 1 if something is broken."""
    from medmark.components.lineage.chain import on_this_machine, verify_chain
    from medmark.components.lineage.graph import write_lineage_report
    from medmark.components.lineage.keys import load_public

    key = load_public(public_key) if public_key else None
    with on_this_machine(release, root) as (folder, above):
        result = verify_chain(folder, key, root=above, timestamp_roots=timestamp_roots)
    if html:
        write_lineage_report(html, result)
    print_chain(result, json_)


@lineage_app.command("croissant")
def lineage_croissant(
    release: Annotated[Path, typer.Argument(help="The marked release.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write, best into the release's folder.")],
    url: Annotated[str | None, typer.Option("--url", help="Address of the folder, if it is published.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Name or URL; the card names none without.")] = None,
    root: ChainRoot = None,
    debug: Debug = False,
) -> None:
    """Write a Croissant data card of a release."""
    from medmark.components.lineage.croissant import write_card

    write_card(release, out, url=url, license_=license_, root=root)
    print(out)


def print_chain(result: dict, out: Path | None) -> None:
    """The chain as a tree; every check into a file; an error if something is broken."""
    from medmark.components.dataset.release import canonical_json
    from medmark.components.errors import MedmarkError
    from medmark.components.lineage.files import write_new
    from medmark.components.lineage.graph import lineage_tree
    from rich.console import Console

    if out:
        write_new(out, canonical_json(result), 0o644)
    Console().print(lineage_tree(result))
    if result["broken"]:
        raise MedmarkError(f"{result['broken']['path']} does not hold: {result['broken']['says']}")
