"""The command line of dinolab with the toys: `python -m tests.toy train method=toy data.path=toy:12 ...`."""

import sys

from dinolab.cli import main
from tests.toy import insert

if __name__ == "__main__":
    insert()
    sys.exit(main())
