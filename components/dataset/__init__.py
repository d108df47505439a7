"""The release format that every step passes on, the ways into and out of it, and chest phantoms."""
