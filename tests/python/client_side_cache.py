"""redis-py's client-side cache (RESP3), checked against a server: `client_side_cache.py HOST PORT [FILE ...]`.

What is cached is forgotten a moment after anybody writes it. Each FILE says, by being there, that a switch is complete;
the same must hold after it.
"""

import pathlib
import sys
import time

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

# It asks for a newer server than it needs.
CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"

HOST, PORT = sys.argv[1], int(sys.argv[2])
SWITCHES = [pathlib.Path(file) for file in sys.argv[3:]]
BOUND_SECONDS = 10


def reads_within_bound(cached, key, wanted):
    """The invalidation comes a moment after the write: read until it is there."""
    deadline = time.monotonic() + BOUND_SECONDS
    while time.monotonic() < deadline:
        if cached.get(key) == wanted:
            return True
        time.sleep(0.002)
    return False


def main():
    cached = redis.Redis(host=HOST, port=PORT, protocol=3, socket_timeout=BOUND_SECONDS, cache_config=CacheConfig())
    writer = redis.Redis(host=HOST, port=PORT, socket_timeout=BOUND_SECONDS)
    writer.set("k", "0")
    assert cached.get("k") == b"0"
    assert cached.get_cache().size == 1, "nothing was cached"
    for number in range(1, 20):
        writer.set("k", number)
        assert reads_within_bound(cached, "k", b"%d" % number), f"a stale value after write {number}"
    for switch, file in enumerate(SWITCHES):
        assert cached.get_cache().size > 0, "nothing is cached"
        print(f"ready for {file.name}", flush=True)
        while not file.exists():
            time.sleep(0.002)
        # Written on the new active alone: what was cached before the switch must be forgotten.
        wanted = b"after switch %d" % switch
        writer.set("k", wanted)
        assert reads_within_bound(cached, "k", wanted), f"a stale value after switch {switch}"
        writer.set("k", wanted + b" again")
        assert reads_within_bound(cached, "k", wanted + b" again"), f"no invalidation after switch {switch}"
    print("done", flush=True)


main()
