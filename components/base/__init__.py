"""What every room uses: errors, messages, digests, atomic and private files, locks, threads, checkpoints, progress, and the shared parts of reports."""
