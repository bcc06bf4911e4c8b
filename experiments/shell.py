"""What every experiment does by the command line."""

import subprocess
import sys


def saeforge(*arguments: str) -> None:
    """Run a command of the package; stop with its exit code if it fails."""
    print("$ saeforge", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "saeforge", *arguments], check=False).returncode
    if code:
        sys.exit(code)
