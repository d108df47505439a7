"""Lock a release against unauthorised analysis, and check that the locks hold."""
