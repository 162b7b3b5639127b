"""Run the command line as ``python -m fsrobust.cli``."""

from fsrobust.cli import main

if __name__ == "__main__":
    main()
