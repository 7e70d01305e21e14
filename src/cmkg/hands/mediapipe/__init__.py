"""MediaPipe's hand networks: read from their files, taught, and written back."""
