"""`python -m residual` is the `residual` command."""

from residual.cli.main import main

main()
