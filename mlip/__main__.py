import sys

from mlip.warm import forward

status = forward(sys.argv[1:])
if status is None:
    from mlip.cli import main

    main()
else:
    sys.exit(status)
