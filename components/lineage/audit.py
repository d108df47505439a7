"""Checks a chain of releases in one step, with a report."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medmark.components.base.digests import canonical_json
from medmark.components.lineage.chain import on_this_machine, verify_chain
from medmark.components.lineage.graph import write_lineage_report
from medmark.components.lineage.keys import load_public


def audit_lineage(
    release_uri: str, public_key: str, timestamp_roots: str, result_file: str | Path, report_file: str | Path
) -> str:
    """Checks a release and all before it, and writes what was found.

    Args:
        release_uri: folder, or ``s3://bucket/prefix/<digest>`` in the object store that the environment names.
        public_key: text of the owner's ``medmark.pub``.
        timestamp_roots: PEM text of the root certificates of the time stamp authority; time stamps are not checked when empty.
        result_file: file that gets the result as JSON.
        report_file: file that gets the report as HTML.

    Returns:
        ``holds`` or ``broken``.

    Raises:
        MedmarkError: no public key or certificates in the texts, or a store that fails.
    """
    with tempfile.TemporaryDirectory(prefix="medmark-") as folder:
        key, roots = Path(folder) / "medmark.pub", Path(folder) / "roots.pem"
        key.write_text(public_key)
        roots.write_text(timestamp_roots)
        with on_this_machine(release_uri) as (release, root):
            result = verify_chain(
                release, load_public(key), root=root, timestamp_roots=roots if timestamp_roots else None
            )
    Path(result_file).write_bytes(canonical_json(result))
    write_lineage_report(report_file, result)
    return "holds" if result["holds"] else "broken"
