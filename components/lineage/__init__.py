"""How a release was made, signed: step events, commitments, time stamps, and the check of a chain of releases."""
