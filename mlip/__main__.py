import sys

from mlip.run.warm import forward

status = forward(sys.argv[1:])
if status is None:
    from mlip.run.cli import main

    main()
else:
    sys.exit(status)
