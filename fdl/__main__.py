"""`python -m fdl`."""

from fdl.cli import main

main()
