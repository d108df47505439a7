"""What every room uses: errors, digests, private files, locks, threads, progress, and the shared parts of reports."""
