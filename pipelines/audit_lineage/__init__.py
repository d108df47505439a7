"""Check a release and every release that it was made from."""
