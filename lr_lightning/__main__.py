"""`python -m lr_lightning`, which is `lr-lightning`."""

import sys

from lr_lightning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
