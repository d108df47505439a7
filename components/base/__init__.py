"""What every room uses: errors, text of messages, digests, atomic and private files, locks, threads, checkpoints, progress."""
