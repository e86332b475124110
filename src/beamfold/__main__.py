"""`python -m beamfold`: the same as the command `beamfold`."""

from beamfold.cli import main

if __name__ == "__main__":
    main()
