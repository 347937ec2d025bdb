"""`python -m ensemble_tune` is `ensemble-tune`."""

from ensemble_tune.cli import main

if __name__ == "__main__":
    main()
