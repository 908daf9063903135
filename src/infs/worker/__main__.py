"""The child process: ``python -m infs.worker``. Not for people: it speaks frames on its standard streams."""

from infs.worker.process import main

if __name__ == "__main__":
    main()
