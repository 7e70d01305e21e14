"""`python -m cmkg`, and `torchrun --nproc-per-node N -m cmkg`."""

from .cli.main import main

if __name__ == "__main__":
    main()
