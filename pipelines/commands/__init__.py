"""The ``medmark`` command's subcommands, a module each subject."""
