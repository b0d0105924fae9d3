"""`python -m fdl`."""

from fdl.cli import main

if __name__ == "__main__":  # a process that `report` starts imports this, too
    main()
