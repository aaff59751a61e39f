"""Puts a script of this folder into the repository's own virtual environment, making it first where needed.

Standard library only, and parseable by Python 3.6, so that an old Python gets a clear message.

How it holds together: `.venv/traffic-cop.json` says what the environment is (which Python, which folder) and which
extras were installed for which pyproject.toml. It is replaced in one piece. While pip or venv works, the file says
`busy`; found so later, that work was cut off, and the environment is made anew instead of being trusted. Only the
holder of the lock on `.venv.lock` changes anything; pip inherits the lock, so an orphaned pip keeps it too.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MINIMUM_PYTHON = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
VENV_PYTHON = os.path.join(VENV_BIN, "python.exe" if os.name == "nt" else "python")
STATE = os.path.join(VENV, "traffic-cop.json")
LOG = os.path.join(ROOT, ".venv.log")
REENTERED = "TRAFFIC_COP_IN_VENV"
ALSO_IN = {"demo": ("dev",)}  # larger extras that bring all of this one


def enter_venv(extra):
    """Returns inside `.venv` with the package and this extra installed; re-executes the script to get there."""
    if sys.version_info < MINIMUM_PYTHON:
        stop(
            "This needs Python {}.{} or newer, and {} is Python {}.{}. Run it with a newer one, for example "
            "`python3.11 {}`.".format(*MINIMUM_PYTHON, sys.executable, *sys.version_info[:2], sys.argv[0])
        )
    if os.environ.pop(REENTERED, None):
        return
    try:
        if not is_ready(extra):
            with lock() as lock_fd:
                if not is_ready(extra):  # another run may have made it while this one waited
                    set_up(extra, lock_fd)
    except KeyboardInterrupt:
        stop("Interrupted. The next run starts the set-up afresh.", status=130)
    except OSError as error:
        stop(f"The set-up of .venv failed: {error}.")
    command = [VENV_PYTHON, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    environment = dict(clean_environment(), **{REENTERED: "1"})
    sys.stdout.flush()
    if os.name == "nt":  # execve there returns to the shell at once
        sys.exit(subprocess.call(command, env=environment))
    os.execve(VENV_PYTHON, command, environment)


def set_up(extra, lock_fd):
    """Makes or mends `.venv` and installs the package, editable, with one extra."""
    started = time.monotonic()
    say(f"Setting up .venv with traffic-cop-middleware[{extra}]; this happens once and takes a minute or so ...")
    open(LOG, "w").close()
    reason = why_unusable(lock_fd)
    if reason:
        make_venv(reason, lock_fd)
    state = dict(read_state(), python=python_tag(), root=ROOT)
    state.setdefault("installed", {})
    write_state(dict(state, busy=True))
    if not run([VENV_PYTHON, "-m", "pip", "install", "--no-input", "-e", f"{ROOT}[{extra}]"], lock_fd):
        write_state(dict(state, busy=False))  # pip ended by itself, so it left the environment in order
        stop(
            "pip could not install the package and its requirements. If the last lines below speak of connections "
            "or name resolution, this machine does not reach the package index: mend the network, or give pip its "
            "proxy or mirror (PIP_PROXY, PIP_INDEX_URL), and run the same command again.",
            log=True,
        )
    state["installed"][extra] = fingerprint(extra)
    write_state(dict(state, busy=False))
    os.remove(LOG)
    say(f"Set up in {time.monotonic() - started:.0f} s. The next run starts at once.\n")


def make_venv(reason, lock_fd):
    """A new `.venv` with pip in it, by the first of three ways that works on this machine."""
    remove_venv(reason)
    python = getattr(sys, "_base_executable", None) or sys.executable
    ways = (
        # The usual way.
        [[python, "-m", "venv", VENV]],
        # Debian without python3-venv has no ensurepip; a pip outside can still put pip inside.
        [
            [python, "-m", "venv", "--without-pip", VENV],
            [python, "-m", "pip", "--python", VENV_PYTHON, "install", "--no-input", "pip"],
        ],
        [[python, "-m", "virtualenv", VENV]],
    )
    for commands in ways:
        os.makedirs(VENV)
        write_state({"busy": True})
        if all(run(command, lock_fd) for command in commands) and has_pip(lock_fd):
            write_state({"busy": False, "python": python_tag(), "root": ROOT})
            return
        remove_venv()
    stop(
        f"{python} cannot make a virtual environment with pip in it. On Debian or Ubuntu run `apt-get install "
        f"python3-venv`; elsewhere, or without root, run `{python} -m pip install --user virtualenv`. Then run the "
        "same command again.",
        log=True,
    )


def remove_venv(reason=None):
    if os.path.islink(VENV):
        os.remove(VENV)
    elif os.path.isdir(VENV):
        known = ("pyvenv.cfg", os.path.basename(STATE))
        if os.listdir(VENV) and not any(os.path.exists(os.path.join(VENV, name)) for name in known):
            stop(f"{VENV} exists and is not a virtual environment. Move it away and run the same command again.")
        if reason:
            say(f"Making .venv anew: {reason}.")
        shutil.rmtree(VENV)


def is_ready(extra):
    state = read_state()
    installed = state.get("installed", {})
    return (
        state.get("busy") is False
        and state.get("python") == python_tag()
        and state.get("root") == ROOT
        and any(installed.get(name) == fingerprint(name) for name in (extra, *ALSO_IN.get(extra, ())))
        and os.path.exists(VENV_PYTHON)
    )


def why_unusable(lock_fd):
    """Why `.venv` has to be made (anew), or an empty string where the package can be installed into it."""
    state = read_state()
    if not os.path.isdir(VENV):
        return "there is none"
    if state.get("busy"):
        return "an earlier set-up was cut off"
    if state.get("root", ROOT) != ROOT:  # its scripts name the old folder
        return "this folder was moved or copied"
    if state.get("python", python_tag()) != python_tag():
        return f"it is for {state['python']} and this is {python_tag()}"
    if not has_pip(lock_fd):
        return "its Python or its pip does not run"
    return ""


def has_pip(lock_fd):
    check = f"import sys, pip; sys.exit(sys.implementation.cache_tag != {python_tag()!r})"
    return os.path.exists(VENV_PYTHON) and run([VENV_PYTHON, "-c", check], lock_fd)


def fingerprint(extra):
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return hashlib.sha256(file.read() + f"\0{python_tag()}\0{extra}".encode()).hexdigest()


def python_tag():
    return sys.implementation.cache_tag


def read_state():
    try:
        with open(STATE) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_state(state):
    with open(STATE + ".new", "w") as file:
        json.dump(state, file, indent=2)
    os.replace(STATE + ".new", STATE)


@contextlib.contextmanager
def lock():
    """The right to change `.venv`; released by the system when its last holder ends, however that ends."""
    with open(os.path.join(ROOT, ".venv.lock"), "w") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another run is setting up .venv; waiting for it ...")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def run(command, lock_fd):
    """True if the command succeeded; what it prints goes to the log."""
    with open(LOG, "ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        keep_lock = {"pass_fds": (lock_fd,)} if fcntl else {}
        status = subprocess.call(
            command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **keep_lock
        )
    return status == 0


def clean_environment():
    """The environment without what would point Python or pip away from `.venv`."""
    unwanted = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_PYTHON", "__PYVENV_LAUNCHER__")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    return environment


def say(text):
    print(text, flush=True)


def stop(text, log=False, status=1):
    """Ends the script with one paragraph, and with the end of the log where that tells more."""
    print("\n" + textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False), file=sys.stderr)
    if log:
        with open(LOG, errors="replace") as file:
            lines = file.read().splitlines()
        print(f"\nThe last lines of {LOG}:", file=sys.stderr)
        print("\n".join("    " + line for line in lines[-15:]), file=sys.stderr)
    sys.exit(status)
