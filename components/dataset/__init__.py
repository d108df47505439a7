"""The release format that every step passes on, and the ways into and out of it."""
