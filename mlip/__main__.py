from mlip.cli import main

main()
