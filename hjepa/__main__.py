"`python -m hjepa`: the command `hjepa`, also for `torchrun -m hjepa train`."
import sys

from .cli.main import main

if __name__ == '__main__': sys.exit(main())
