"""What the Flex Template's launcher starts: a file, and one outside `pipelines`, whose `tokenize` is not Python's."""

import sys

from pipelines.template import main

if __name__ == "__main__":
    sys.exit(main())
