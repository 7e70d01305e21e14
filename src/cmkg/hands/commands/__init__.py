"""The commands of the `cmkg` program, one module each."""
