"""The release format that every step passes on, and the ways into it and out of it."""
