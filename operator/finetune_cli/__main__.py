"""`python -m finetune_cli` is the command line too."""

import sys

from finetune_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
