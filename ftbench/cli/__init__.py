"""The command line: parse, call one function, print."""

from ftbench.cli.app import main

__all__ = ["main"]
