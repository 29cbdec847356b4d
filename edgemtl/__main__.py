"""``python -m edgemtl``: the command line."""

from edgemtl.cli.main import main

if __name__ == "__main__":
    main()
