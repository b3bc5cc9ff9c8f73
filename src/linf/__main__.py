"""`python -m linf` is `linf`."""

from linf.cli import main

main()
