"""`python -m bcgan`: the command line."""

from bcgan.cli import main

if __name__ == "__main__":
    main()
