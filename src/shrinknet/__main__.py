"""`python -m shrinknet` is the command line."""

from shrinknet.cli.main import main

main()
