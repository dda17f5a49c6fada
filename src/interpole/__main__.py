"""`python -m interpole`: the command line."""

from interpole.cli import main

main()
