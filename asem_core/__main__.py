"""`python -m asem_core` is `asem`."""

from asem_core.cli import main

main()
