"""`python -m driftlm`."""

from driftlm.cli import main

if __name__ == "__main__":
    main()
