"""`python -m kprune` is the command `kprune`."""

from kprune.cli import main

if __name__ == "__main__":
    main()
