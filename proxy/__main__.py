"""`python -m proxy` is the command `deepseek-meter`."""

from proxy.cli import main

if __name__ == "__main__":
    main()
