"""What `scripts/check` verifies: everything that can be seen without running the platform."""
