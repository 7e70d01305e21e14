"""What every long job needs and no equation mentions: processes, files, run folders, progress."""
