"""`python -m molvae` is `molvae`."""

from molvae.cli.main import main

main()
