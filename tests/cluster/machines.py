"""Machines of a test's own on this one: each with an address, processes, a /tmp and a home of its
own, and a real sshd. Nothing of it is seen from outside, and nothing outlives the test.

    with switched(folder) as laptop:
        head = Machine("head", "10.77.0.1", folder, laptop)
        head.start()
        laptop.run("ssh", "fdan@10.77.0.1", "hostname")
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USER = "fdan"
HOME = Path("/tmp/home")
SHARED = Path("/tmp/shared")
LAPTOP = "10.77.0.254"

_SSHD = Path("/usr/sbin/sshd")
_LIBC = ctypes.CDLL(None, use_errno=True)
_NETWORK = 0x40000000
"""CLONE_NEWNET"""

# A machine's first process. Its /tmp is a folder of the test's; what this test runs from comes back
# into it where it lies below /tmp. Its user is root by another name, and so has another home.
_INIT = """
set -e
hostname "$NAME"
for path in $BACK; do
  mkdir -p "$DISK/${path#/tmp/}"
  mount --bind "$path" "$DISK/${path#/tmp/}"
done
mount --bind "$SHARED" "$DISK/shared"
mount --rbind "$DISK" /tmp
mount -t tmpfs none /run
mount -t tmpfs none /var/log  # sshd writes down who logs in
touch /var/log/lastlog
mkdir /run/sshd
# A copy: one file alone that is mounted over falls off when somebody outside renames another to it.
cp -a /etc /run/etc
sed -i "1i $USER:*:0:0::$HOME:/bin/bash" /run/etc/passwd
mount --bind /run/etc /etc
ip link set lo up
read -r _  # the network is plugged in
cd /
env -i /usr/sbin/sshd -D -e -f /tmp/sshd_config
"""


def needed() -> None:
    """Skips a test, with the reason, where there can be no such machines."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("machines of a test's own need root on Linux")
    for program in ("ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "tmux", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not _SSHD.exists():
        pytest.skip("sshd is not installed: apt-get install openssh-server")
    tried = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "ip",
        "link",
        "add",
        "type",
        "bridge",
    ]
    made = subprocess.run(tried, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no namespaces or network bridges here: {made.stderr.strip()}")


class Machine:
    """`disk`: what it sees as /tmp, its home included; stays when it is killed. Without a switch
    it is one. wheels: where its pip finds uv, which is on its PATH otherwise; below SHARED."""

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        switch: Machine | None,
        wheels: Path | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self._wheels = wheels
        self.disk = folder / name
        self.home = self.disk / "home"
        self._folder = folder
        self._switch = switch
        self._first: int | None = None
        self._started: subprocess.Popen[str] | None = None
        self._make_disk()

    def _make_disk(self) -> None:
        (self.home / ".ssh").mkdir(parents=True)
        (self.disk / "shared").mkdir()
        programs = self.home / ".local" / "bin"
        programs.mkdir(parents=True)
        if self._wheels is None:
            (programs / "uv").symlink_to(uv())
        (programs / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
        (self.home / ".profile").write_text('. ~/.bashrc\nPATH="$HOME/.local/bin:$PATH"\n')
        (self.home / ".bashrc").write_text("case $- in *i*) ;; *) return ;; esac\n")
        key = self.disk / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        # A machine without a way out takes packages from where this one has them.
        environment = f"UV_CACHE_DIR={uv_cache()} UV_LINK_MODE=symlink UV_OFFLINE=1"
        environment += " RAY_worker_niceness=0"  # as beside it (tests/conftest.py)
        if self._wheels is not None:
            environment += f" PIP_NO_INDEX=1 PIP_FIND_LINKS={self._wheels}"
        (self.disk / "sshd_config").write_text(
            f"ListenAddress {self.address}\n"
            "HostKey /tmp/host_key\n"
            "AuthorizedKeysFile /tmp/home/.ssh/authorized_keys\n"
            "PasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
            "PidFile none\n"
            f"SetEnv {environment}\n"
        )

    def start(self) -> None:
        """Returns when ssh answers."""
        back = {ROOT, Path(sys.prefix), Path(sys.base_prefix), uv_cache()}
        (self._folder / "shared").mkdir(exist_ok=True)
        with (self._folder / f"{self.name}.log").open("a") as log:
            self._started = subprocess.Popen(
                [
                    # It ends with this process, and with it all that runs there.
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--net", "--mount", "--pid", "--uts", "--ipc"),
                    *("--fork", "--kill-child", "--mount-proc", "bash", "-c", _INIT),
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "NAME": self.name,
                    "DISK": str(self.disk),
                    "SHARED": str(self._folder / "shared"),
                    "USER": USER,
                    "HOME": str(HOME),
                    "BACK": " ".join(str(path) for path in back if path.is_relative_to("/tmp")),
                },
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
            )
        children = Path(f"/proc/{self._started.pid}/task/{self._started.pid}/children")
        _wait(lambda: children.read_text().split())
        self._first = int(children.read_text())
        self._plug_in()
        assert self._started.stdin is not None
        self._started.stdin.write("\n")
        self._started.stdin.close()
        _wait(lambda: b"LISTEN" in self.run("ss", "-Hlnt", "sport = :22").stdout.encode())

    def _plug_in(self) -> None:
        if self._switch is None:
            self._ip("link", "add", "eth0", "type", "bridge")
        else:
            port = f"to-{self.name}"
            ends = [*("eth0", "netns", str(self.pid), "type", "veth")]
            ends += ["peer", "name", port, "netns", str(self._switch.pid)]
            subprocess.run(["ip", "link", "add", *ends], check=True)
            self._switch._ip("link", "set", port, "master", "eth0", "up")
        self._ip("address", "add", f"{self.address}/24", "dev", "eth0")
        self._ip("link", "set", "eth0", "up")
        if self._switch is not None:
            self._ip("route", "add", "default", "via", self._switch.address)

    def _ip(self, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(self.pid), "--net", "ip", *words], check=True)

    @property
    def pid(self) -> int:
        """Of its first process, as seen from outside."""
        assert self._first is not None, f"{self.name} does not run"
        return self._first

    def kill(self) -> None:
        """As if somebody pulled its plug: its processes are gone at once, and its network."""
        if self._started is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._started.wait(timeout=30)
            self._started = self._first = None

    def run(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """A command in a terminal there, in the checkout's folder, with its environment active."""
        return subprocess.run(
            self.words(*words),
            env=self.environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def words(self, *words: str) -> list[str]:
        """A command line for here that runs one there."""
        spaces = ("--net", "--mount", "--pid", "--uts", "--ipc")
        return ["nsenter", "--target", str(self.pid), *spaces, "--wd=" + str(ROOT), *words]

    def environment(self) -> dict[str, str]:
        path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        user = {"HOME": str(HOME), "USER": USER, "LOGNAME": USER}
        return {**user, "PATH": path, "TERM": "xterm", "PYTHONUNBUFFERED": "1"}

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread, and what it starts, is in this machine's network."""
        with Path("/proc/thread-self/ns/net").open() as here:
            with Path(f"/proc/{self.pid}/ns/net").open() as there:
                _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(here.fileno())


def _set_network(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _NETWORK):  # os.setns is Python 3.12's
        raise OSError(ctypes.get_errno(), "setns")


def uv() -> Path:
    return Path(sysconfig.get_path("scripts")) / "uv"


def uv_cache() -> Path:
    found = subprocess.run([uv(), "cache", "dir"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def fill_cache(folder: Path) -> None:
    """What the machines install is then in uv's cache. Quick where it is already."""
    subprocess.run([uv(), "--quiet", "venv", "--python", sys.executable, folder], check=True)
    install: list[str | Path] = [
        uv(),
        "pip",
        "install",
        "--link-mode",
        "symlink",
        "--python",
        folder,
    ]
    install += ["-c", ROOT / "constraints.txt", "-r", ROOT / "pyproject.toml"]
    install += ["--extra", "cluster", "setuptools"]  # which builds ours
    look = subprocess.run([*install, "--offline", "--dry-run"], capture_output=True, text=True)
    if look.returncode or "Would download" in look.stderr:
        subprocess.run([*install, "--quiet"], check=True)
    shutil.rmtree(folder)


def fetch_uv(folder: Path) -> None:
    """Its wheel, as pip takes it."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    version = subprocess.run([uv(), "--version"], capture_output=True, text=True, check=True)
    wanted = f"uv=={version.stdout.split()[1]}"
    subprocess.run([*pip, "download", "--no-deps", "--dest", folder, wanted], check=True)


@contextlib.contextmanager
def switched(folder: Path) -> Iterator[Machine]:
    """The user's laptop, to which all others are connected, with the user's own key."""
    laptop = Machine("laptop", LAPTOP, folder, None)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", laptop.home / ".ssh" / "id_ed25519"],
        check=True,
    )
    laptop.start()
    try:
        yield laptop
    finally:
        laptop.kill()


def _wait(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
