import sys

from mlip.run.locks import end_with_run
from mlip.run.warm import forward

end_with_run()
status = forward(sys.argv[1:])
if status is None:
    from mlip.run.cli import main

    main()
else:
    sys.exit(status)
