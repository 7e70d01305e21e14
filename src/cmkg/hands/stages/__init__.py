"""One file per command: its settings as a frozen dataclass, and an explicit `run`."""
