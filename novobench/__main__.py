from novobench.cli import main

main()
