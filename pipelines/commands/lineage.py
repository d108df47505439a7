"""Keys and commitments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug, PublicKey

app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign commitments.")
app.add_typer(keys_app, name="keys")


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
