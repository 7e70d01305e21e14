"""Infrastructure for long jobs: processes, files, run folders, progress."""
