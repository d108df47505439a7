"""Mark what a new raw drop brings, and make the next release."""
