"""Check a release and everything it was made from."""
