import sys

try:
    from novobench.cli import main
except KeyboardInterrupt:
    print("novobench: interrupted.", file=sys.stderr)
    sys.exit(130)

main()
