"""Mark what a new drop brings, take out what was withdrawn, and make the next release."""
