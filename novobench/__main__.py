import sys

try:
    from novobench.cli import main
except KeyboardInterrupt:
    sys.exit(130)

main()
