"""Run the command line by `python -m driftlm`."""

from driftlm.cli.main import main

if __name__ == "__main__":
    main()
