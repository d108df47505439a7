"""The steps of medmark, one room each."""
