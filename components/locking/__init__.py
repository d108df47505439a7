"""Lock images against unauthorised analysis with a visible logo (MedLocker), and unlock them bit by bit with a key."""
