"""What knows the machine and the platform: threads, progress, tracking, image references."""
