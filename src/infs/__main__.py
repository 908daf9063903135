"""``python -m infs`` is the command ``infs``."""

from infs.cli import main

if __name__ == "__main__":
    main()
