"""`python -m cmkg`, and `torchrun --nproc-per-node N -m cmkg`."""

from .cli import main

if __name__ == "__main__":
    main()
