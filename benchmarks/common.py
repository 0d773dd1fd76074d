"""What several benchmarks do alike."""

import json
import socket


def ports(count):
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return numbers


def write_results(folder, name, lines, details):
    """Leaves a table for readers, and what it was made of."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n".join(lines).rstrip("\n") + "\n")
    (folder / f"{name}.json").write_text(json.dumps(details, indent=2) + "\n")
