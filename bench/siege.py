"""A siege: everything that was found to hurt a service is done to one at once, while a well-behaved client works on.

The service may have 1,024 descriptors. The well-behaved client imports, transfers, exports and compares disks, and
reads images, actions and Droplets at a steady pace: first alone, then under the attacks of ``attackers.py``, then alone
again. Prints the figures, appends them as a line of JSON to a file, and exits with 1 if something was not right.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attackers import PASSWORD, SIGNATURE
from wherry import Client
from wherry.testing.process import Process
from wherry.testing.service import TOKEN

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

DESCRIPTORS = 1024
MOST_P99 = 5.0  # times that of the quiet service
MOST_MIB = 400
PAUSE_S = 0.02  # between two GETs
DISK_MIB = 8
BAIT_MIB = 64  # the disk that the attackers export
LONGEST_S = 120.0  # for an action of the well-behaved client, and for all to be quiet again
_READY = re.compile(r"wherry is ready on http://[^:]+:(\d+)\n")
_PROGRAM = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", sys.executable, "-m", "wherry")


def make_disk(path: Path, mib: int, seed: int) -> None:
    """Write a disk of random bytes with a partition table."""
    disk = bytearray(random.Random(seed).randbytes(mib << 20))
    entry = bytes.fromhex("00000200 83feffff 00080000") + ((mib << 11) - 2048).to_bytes(4, "little")
    disk[446:512] = entry + bytes(48) + b"\x55\xaa"
    path.write_bytes(disk)


def work(url: str, folder: str, is_over: Event, results: Connection) -> None:
    """Import, transfer, export, compare and delete disks, one after another, until it is over.

    Sends how many were done, and what went wrong.
    """
    done, faults, path = 0, [], Path(folder) / "disk.img"
    with Client(token=TOKEN, base_url=url) as client:
        images = client.gpu_droplets.images
        while not is_over.is_set():
            make_disk(path, DISK_MIB, seed=done)
            try:
                imported = client.actions.wait(images.upload(path, name="mine", region="nyc3"))
                assert imported.resource_id is not None
                client.actions.wait(images.actions.create(imported.resource_id, type="transfer", region="ams3"))
                copy = Path(folder) / "copy.img"
                images.export(imported.resource_id, copy)
                if copy.read_bytes() != path.read_bytes():
                    faults.append(f"image {imported.resource_id} came out as another disk")
                copy.unlink()
                images.delete(imported.resource_id)
            except Exception as error:  # noqa: BLE001  whatever it is, it is part of the verdict
                faults.append(f"the well-behaved client met {type(error).__name__}: {error}")
                break
            done += 1
    results.send((done, faults))


class Reader:
    """Reads the service at a steady pace. ``times`` are the seconds of each GET, ``faults`` what went wrong."""

    def __init__(self, port: int, image: int) -> None:
        self._port = port
        self._paths = ["/v2/images?per_page=20", f"/v2/images/{image}", "/v2/actions", "/v2/droplets", "/healthz"]
        self.times: list[float] = []
        self.faults: list[str] = []

    def read(self, seconds: float) -> None:
        """Read for so many seconds, over one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LONGEST_S)
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            path = self._paths[number % len(self._paths)]
            begin = time.perf_counter()
            try:
                connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
                reply = connection.getresponse()
                reply.read()
                if reply.status != http.HTTPStatus.OK:
                    self.faults.append(f"GET {path} came to {reply.status}")
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(f"GET {path} met {type(error).__name__}: {error}")
                connection.close()
            self.times.append(time.perf_counter() - begin)
            number += 1
            time.sleep(PAUSE_S)
        connection.close()

    def milliseconds(self, share: float) -> float:
        """The time within which this share of the GETs was done."""
        return 1e3 * sorted(self.times)[min(int(share * len(self.times)), len(self.times) - 1)]


class Watch(threading.Thread):
    """Notes the most memory and descriptors that a process has."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._is_over = threading.Event()
        self.most_mib = 0
        self.most_descriptors = 0

    def run(self) -> None:
        """Look ten times a second until it is stopped."""
        while not self._is_over.wait(0.1):
            self.most_mib = max(self.most_mib, resident_mib(self._pid))
            self.most_descriptors = max(self.most_descriptors, len(list(Path(f"/proc/{self._pid}/fd").iterdir())))

    def stop(self) -> None:
        """Look no longer."""
        self._is_over.set()
        self.join()


def resident_mib(pid: int) -> int:
    """The memory that a process has, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) >> 10


def run_phase(port: int, image: int, folder: Path, seconds: float) -> tuple[Reader, int, list[str]]:
    """The well-behaved client for so many seconds. Returns its reader, the disks it carried, and what went wrong."""
    context = multiprocessing.get_context("spawn")
    is_over, (receiver, sender) = context.Event(), context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(f"http://127.0.0.1:{port}", str(folder), is_over, sender))
    worker.start()
    reader = Reader(port, image)
    reader.read(seconds)
    is_over.set()
    done, faults = receiver.recv() if receiver.poll(4 * LONGEST_S) else (0, ["the well-behaved client has not ended"])
    worker.join(10)
    return reader, done, [*faults, *reader.faults]


def wherry(*arguments: str) -> str:
    """What a command of the CLI prints."""
    command = [sys.executable, "-m", "wherry", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def leaks(folder: Path) -> list[str]:
    """The files below a folder that hold a secret of the attackers' import addresses."""
    secrets = (PASSWORD.encode(), SIGNATURE.encode())
    return [
        f"{path.relative_to(folder)} holds a secret of an import's address"
        for path in folder.rglob("*") if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]  # fmt: skip


def besiege(seconds: float, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run it. Returns the figures and the faults."""
    data = folder / "data"
    with ExitStack() as stack:
        environment = {"WHERRY_BOOTSTRAP_TOKEN": TOKEN}
        service = Process(folder / "wherry.log", _READY, environment=environment, program=_PROGRAM)
        stack.callback(service.stop)
        (port,) = service.launch(
            ["serve", "--data", str(data), "--listen", "127.0.0.1:0", "--no-public-images", "--regions", "nyc3,ams3",
             "--allow-import-from", "127.0.0.0/8"]
        )  # fmt: skip
        tokens = make_attackers(data)
        url = f"http://127.0.0.1:{port}"
        bait, calm = (bring_in(url, token, folder, BAIT_MIB) for token in (tokens[0], TOKEN))
        with Client(token=tokens[0], base_url=url) as attacker:
            attacker.tags.create(name="siege")
        run_phase(int(port), calm, folder, 2.0)  # so that both phases find all that is made on first use
        quiet, quiet_disks, faults = run_phase(int(port), calm, folder, seconds)
        memory = {"quiet": resident_mib(service.pid)}
        watch = Watch(service.pid)
        watch.start()
        attackers = stack.enter_context(begin_attacks(port, bait, tokens))
        stack.callback(attackers.kill)
        hard, hard_disks, met = run_phase(int(port), calm, folder, seconds)
        tally = end_attacks(attackers)
        faults += [*met, *tally["faults"]]
        after, after_disks, met = run_phase(int(port), calm, folder, min(seconds, 10.0))
        faults += [f"after the siege: {fault}" for fault in met]
        watch.stop()
        memory |= {"most": watch.most_mib, "after": resident_mib(service.pid)}
        begin = time.monotonic()
        service.terminate()
        status = service.wait(LONGEST_S)
        stopped_s = time.monotonic() - begin
    if status != 0:
        faults.append(f"the service ended with {status} on SIGTERM:\n{service.said()[-2000:]}")
    if "Traceback" in service.said():
        faults.append("the service's log has a stack trace: --keep keeps it")
    if not hard_disks:
        faults.append("the well-behaved client carried no disk under siege")
    readers = {"quiet": quiet, "siege": hard, "after": after}
    figures = {
        "seconds": seconds,
        "gets": {phase: len(reader.times) for phase, reader in readers.items()},
        "get_p50_ms": {phase: reader.milliseconds(0.5) for phase, reader in readers.items()},
        "get_p99_ms": {phase: reader.milliseconds(0.99) for phase, reader in readers.items()},
        "p99_ratio": hard.milliseconds(0.99) / quiet.milliseconds(0.99),
        "disks": {"quiet": quiet_disks, "siege": hard_disks, "after": after_disks},
        "memory_mib": memory,
        "most_descriptors": watch.most_descriptors,
        "stopped_s": stopped_s,
        "attacks": tally["outcomes"],
    }
    return figures, [*faults, *excesses(figures), *leaks(folder), *damage(data)]


def make_attackers(data: Path) -> list[str]:
    """Make an account with four tokens. Returns them."""
    whose = ["--data", str(data), "--account", "attacker@example.net"]
    printed = [wherry("account", "create", "--data", str(data), "--email", "attacker@example.net")]
    printed += [wherry("token", "create", *whose, "--name", f"token {number}") for number in range(3)]
    return re.findall(r"dop_v1_[0-9a-f]{64}", "".join(printed))


def begin_attacks(port: str, image: int, tokens: list[str]) -> subprocess.Popen[str]:
    """Start the attackers' process, and wait until all of them are at work."""
    program = str(Path(__file__).with_name("attackers.py"))
    attackers = subprocess.Popen(
        [sys.executable, program, "--port", port, "--image", str(image)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert attackers.stdin is not None
    assert attackers.stdout is not None
    attackers.stdin.write("\n".join(tokens))
    attackers.stdin.close()
    attackers.stdout.readline()
    return attackers


def end_attacks(attackers: subprocess.Popen[str]) -> dict[str, Any]:
    """End the attacks. Returns what each came to, and what was wrong."""
    assert attackers.stdout is not None
    attackers.terminate()
    tally: dict[str, Any] = json.loads(attackers.stdout.readline())
    return tally


def excesses(figures: dict[str, Any]) -> list[str]:
    """The figures that are beyond their bounds."""
    faults = []
    if figures["p99_ratio"] > MOST_P99:
        faults.append(f"the p99 of GETs was {figures['p99_ratio']:.1f} times that of the quiet service, not {MOST_P99}")
    if figures["memory_mib"]["most"] >= MOST_MIB:
        faults.append(f"the service had {figures['memory_mib']['most']} MiB of memory, not less than {MOST_MIB}")
    return faults


def damage(data: Path) -> list[str]:
    """What ``wherry check --read-data`` finds wrong."""
    command = [sys.executable, "-m", "wherry", "check", "--read-data", "--data", str(data)]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    return [f"wherry check: {checked.stdout}{checked.stderr}"] if checked.returncode else []


def bring_in(url: str, token: str, folder: Path, mib: int) -> int:
    """Import a disk for an account. Returns the image's id."""
    path = folder / "bait.img"
    make_disk(path, mib, seed=mib)
    with Client(token=token, base_url=url) as client:
        imported = client.actions.wait(client.gpu_droplets.images.upload(path, name="bait", region="nyc3"))
    path.unlink()
    assert imported.resource_id is not None
    return imported.resource_id


def show(figures: dict[str, Any]) -> str:
    """The figures as a table for people."""

    def row(label: str, key: str, form: str) -> str:
        return f"{label:28}" + "".join(f"{value:>10{form}}" for value in figures[key].values())

    lines = [
        f"{'':28}{'quiet':>10}{'siege':>10}{'after':>10}",
        row("GETs", "gets", ""),
        row("their median, ms", "get_p50_ms", ".1f"),
        row("their p99, ms", "get_p99_ms", ".1f"),
        row("disks carried", "disks", ""),
        row("memory (siege: most), MiB", "memory_mib", ""),
        f"p99 under siege: {figures['p99_ratio']:.2f} times that of the quiet service (at most {MOST_P99})",
        f"descriptors: at most {figures['most_descriptors']} of {DESCRIPTORS}",
        f"SIGTERM: ended after {figures['stopped_s']:.1f} s",
        "attacks, and how often each came to what:",
    ]
    for attack, outcomes in figures["attacks"].items():
        counts = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()) if count)
        lines.append(f"  {attack:26}{counts}")
    return "\n".join(lines)


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "siege.jsonl")
    parser.add_argument("--keep", type=Path, help="a folder for the service's log and data; default: none are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wherry-siege-") as folder:
        figures, faults = besiege(arguments.seconds, Path(folder))
        if arguments.keep:
            shutil.copytree(folder, arguments.keep, dirs_exist_ok=True)
    with arguments.output.open("a", encoding="utf-8") as output:
        output.write(json.dumps(figures | {"faults": faults}) + "\n")
    print(show(figures))
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    if not faults:
        print("No request of the well-behaved client failed; wherry check --read-data is clean.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
