"""Question suspect models with the evidence of a release."""
