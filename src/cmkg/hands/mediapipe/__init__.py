"""MediaPipe's hand networks: reading their files, training them, and writing them back."""
