"""``python -m ftbench``: the command line where its script is not on the PATH."""

from ftbench.cli import main

if __name__ == "__main__":
    main()
