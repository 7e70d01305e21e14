"""Hand pose networks: inputs, architecture and loss."""
