"""`python -m nldsl`."""

from nldsl.cli import main

if __name__ == "__main__":
    main()
