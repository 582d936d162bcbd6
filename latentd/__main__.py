"""`python -m latentd`."""

from latentd.cli import main

main()
