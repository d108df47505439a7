"""The subcommands of ``medmark``, a module for each subject."""
