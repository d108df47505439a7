"""The owner's private evidence: formats of evidence, ledger, queries, answers and keep, and the secrets of a run."""
