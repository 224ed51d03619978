import sys

from softmax_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
