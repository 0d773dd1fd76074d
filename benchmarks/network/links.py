"""Workers' links: a network namespace a worker, shaped by the kernel, and everything removed again.

Without a delay, each worker has a veth pair to a bridge in a namespace of its own, and both ends send through a token
bucket. With one, each has a tun device whose other end is a thread of this process, which holds packets back for the
delay and receivers to their rate: ``netem`` would do the same, but kernels of virtual machines may lack it.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

TUN_SET_IFF, TUN_SET_OFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
OFFLOAD_CHECKSUMS_AND_SEGMENTS = 0x3
VNET_HEADER = 10
# What leaves at once, however slow a link: one segment of TCP as the kernel cuts them here.
SEGMENT = 16_384
BURST = 20_480
# What a port of a switch holds back before it drops.
QUEUE = 1 << 20
DEVICE = "worker"
SUBNET = "10.77.0.0/24"
CONGESTION_CONTROL = "cubic"


@dataclass(frozen=True)
class Network:
    """How fast links are."""

    name: str
    megabits: int = 0
    delay: float = 0.0


def missing() -> str | None:
    """Why there can be no links here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no {tool}: install iproute2"
    return None


def run(*command: str) -> str:
    """What a command writes; its errors are ours."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Links:
    """Namespaces of so many workers, for as long as the context lasts."""

    def __init__(self, world: int, network: Network) -> None:
        self.network = network
        prefix = f"firesteel-{os.getpid()}"
        self.namespaces = [f"{prefix}-{rank}" for rank in range(world)]
        self.hosts = [f"10.77.0.{rank + 1}" for rank in range(world)]
        self.switch = f"{prefix}-switch"
        self.undo = contextlib.ExitStack()

    def __enter__(self) -> Links:
        try:
            for namespace in self.namespaces:
                self.add_namespace(namespace)
            if self.network.delay > 0:
                self.relay()
            else:
                self.bridge()
            for namespace, host in zip(self.namespaces, self.hosts, strict=True):
                link = ("ip", "-n", namespace, "link", "set")
                run(*link, DEVICE, "gso_max_size", str(SEGMENT), "up")
                run(*link, "lo", "up")
                run("ip", "-n", namespace, "address", "add", f"{host}/24", "dev", DEVICE)
                # What most machines have: some others halve what two ends send each other at once.
                route = ("route", "replace", SUBNET, "dev", DEVICE, "congctl", CONGESTION_CONTROL)
                run("ip", "-n", namespace, *route)
                self.shape(namespace, DEVICE)
        except BaseException:
            self.undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.undo.close()

    def add_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self.undo.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)

    def shape(self, namespace: str, device: str) -> None:
        if self.network.megabits:
            bucket = ("tbf", "rate", f"{self.network.megabits}mbit", "burst", str(BURST), "limit", str(QUEUE))
            run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *bucket)

    def bridge(self) -> None:
        self.add_namespace(self.switch)
        run("ip", "-n", self.switch, "link", "add", "bridge", "up", "type", "bridge")
        for rank, namespace in enumerate(self.namespaces):
            port = f"port{rank}"
            pair = ("type", "veth", "peer", "name", port, "netns", self.switch)
            run("ip", "-n", namespace, "link", "add", DEVICE, *pair)
            run("ip", "-n", self.switch, "link", "set", port, "master", "bridge", "up")
            self.shape(self.switch, port)

    def relay(self) -> None:
        devices = []
        for rank, namespace in enumerate(self.namespaces):
            name = f"fs{os.getpid()}t{rank}"
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            # The device goes with its descriptor.
            self.undo.callback(os.close, device)
            request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)
            fcntl.ioctl(device, TUN_SET_IFF, request)
            fcntl.ioctl(device, TUN_SET_OFFLOAD, OFFLOAD_CHECKSUMS_AND_SEGMENTS)
            run("ip", "link", "set", name, "netns", namespace, "name", DEVICE)
            devices.append(device)
        relay = Relay(devices, self.network)
        relay.start()
        self.undo.callback(relay.stop)

    def sent(self) -> int:
        """Bytes that all workers' devices have sent."""
        total = 0
        for namespace in self.namespaces:
            [device] = json.loads(run("ip", "-n", namespace, "-s", "-j", "link", "show", DEVICE))
            total += device["stats64"]["tx"]["bytes"]
        return total


class Relay(threading.Thread):
    """Hands packets over after the delay, to each receiver at its rate."""

    def __init__(self, devices: list[int], network: Network) -> None:
        super().__init__(daemon=True)
        self.devices, self.delay = devices, network.delay
        self.seconds_a_byte = 8e-6 / network.megabits if network.megabits else 0.0
        self.held: list[collections.deque[tuple[float, bytes]]] = [collections.deque() for _ in devices]
        self.free_at = [0.0] * len(devices)
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()
        self.join()

    def run(self) -> None:
        while not self.stopped.is_set():
            now = time.monotonic()
            for device, held in zip(self.devices, self.held, strict=True):
                while held and held[0][0] <= now:
                    # A receiver that is full, or no longer there, loses it.
                    with contextlib.suppress(OSError):
                        os.write(device, held.popleft()[1])
            due = min((held[0][0] for held in self.held if held), default=now + 0.1)
            ready, _, _ = select.select(self.devices, [], [], max(0.0, due - time.monotonic()))
            for device in ready:
                with contextlib.suppress(OSError):
                    for _ in range(16):
                        self.take(os.read(device, 1 << 17))

    def take(self, packet: bytes) -> None:
        # The last byte of an IPv4 destination is a rank and one; what is not IPv4 is of no use to anyone.
        to = packet[VNET_HEADER + 19] - 1 if packet[VNET_HEADER] >> 4 == 4 else -1
        if not 0 <= to < len(self.devices):
            return
        arrives = time.monotonic() + self.delay
        begins = max(arrives, self.free_at[to])
        if (begins - arrives) > QUEUE * self.seconds_a_byte > 0:
            return
        self.free_at[to] = begins + (len(packet) - VNET_HEADER) * self.seconds_a_byte
        self.held[to].append((self.free_at[to], packet))


def within(namespace: str) -> tuple[str, ...]:
    """What a command in a namespace begins with."""
    return ("ip", "netns", "exec", namespace)
