"""`python -m fdl`."""

from fdl.cli.main import main

main()
