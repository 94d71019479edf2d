"""What an application does with redis-py, checked against a server: `redis_py.py HOST PORT`.

The same script must pass against Redis itself and through Handover. It empties database 0 and 1 of that server.
"""

import sys
import threading

import redis

HOST, PORT = sys.argv[1], int(sys.argv[2])
BOUND_SECONDS = 10


def connect(protocol, **options):
    return redis.Redis(host=HOST, port=PORT, protocol=protocol, socket_timeout=BOUND_SECONDS, **options)


def strings(client, protocol):
    every_byte = bytes(range(256)) * 300
    assert client.set(b"k\r\n\0", every_byte) is True
    assert client.get(b"k\r\n\0") == every_byte
    assert client.get("missing") is None
    assert client.set("k", "1", nx=True) is True and client.set("k", "2", nx=True) is None
    assert client.incrbyfloat("f", 0.5) == 0.5


def errors(client, protocol):
    client.rpush("list", "a")
    for call in (lambda: client.incr("list"), lambda: client.execute_command("NOSUCHCOMMAND")):
        try:
            call()
        except redis.ResponseError:
            continue
        raise AssertionError("an error reply was expected")


def collections(client, protocol):
    client.hset("h", mapping={"a": 1, "b": 2})
    assert client.hgetall("h") == {b"a": b"1", b"b": b"2"}
    client.zadd("z", {"x": 1.5, "y": 2})
    assert client.zscore("z", "x") == 1.5
    assert client.zrange("z", 0, -1) == [b"x", b"y"]
    client.xadd("s", {"n": "1"}, id="1-1")
    assert client.xlen("s") == 1


def pipelines(client, protocol):
    pipeline = client.pipeline(transaction=False)
    for number in range(500):
        pipeline.set(f"p{number}", number).get(f"p{number}")
    expected = [reply for number in range(500) for reply in (True, str(number).encode())]
    assert pipeline.execute() == expected


def transactions(client, protocol):
    with client.pipeline(transaction=True) as pipeline:
        assert pipeline.set("t", 1).incr("t").execute() == [True, 2]
    with client.pipeline() as pipeline:
        pipeline.watch("t")
        client.set("t", 10)
        pipeline.multi()
        pipeline.incr("t")
        try:
            pipeline.execute()
        except redis.WatchError:
            return
    raise AssertionError("a watched key changed, and yet EXEC ran")


def scripts(client, protocol):
    double = client.register_script("return redis.call('GET', KEYS[1]) * ARGV[1]")
    client.set("n", 21)
    assert double(keys=["n"], args=[2]) == 42


def scans(client, protocol):
    client.mset({f"scan:{number}": number for number in range(1000)})
    assert len(set(client.scan_iter(match="scan:*", count=37))) == 1000


def blocking(client, protocol):
    popped = []
    waiter = threading.Thread(target=lambda: popped.append(connect(protocol).blpop("queue", timeout=BOUND_SECONDS)))
    waiter.start()
    client.rpush("queue", "job")
    waiter.join()
    assert popped == [(b"queue", b"job")] or popped == [[b"queue", b"job"]], popped
    assert client.blpop("queue", timeout=0.05) is None


def publish_and_subscribe(client, protocol):
    with client.pubsub() as pubsub:
        pubsub.subscribe("news")
        pubsub.psubscribe("ne*")
        confirmed = [pubsub.get_message(timeout=BOUND_SECONDS)["type"] for _ in range(2)]
        assert confirmed == ["subscribe", "psubscribe"], confirmed
        client.publish("news", "hello")
        messages = [pubsub.get_message(timeout=BOUND_SECONDS) for _ in range(2)]
        assert sorted(message["type"] for message in messages) == ["message", "pmessage"], messages
        assert {message["data"] for message in messages} == {b"hello"}


def databases_and_names(client, protocol):
    with connect(protocol, db=1, client_name="tester") as other:
        other.set("only-in-1", 1)
        assert client.get("only-in-1") is None and other.get("only-in-1") == b"1"
        assert other.client_getname() in ("tester", b"tester")


def main():
    checks = [strings, errors, collections, pipelines, transactions, scripts, scans, blocking,
              publish_and_subscribe, databases_and_names]
    for protocol in (2, 3):
        with connect(protocol, db=1) as client:
            client.flushdb()
        with connect(protocol) as client:
            client.flushdb()
            for check in checks:
                check(client, protocol)
    print(f"redis-py {redis.__version__}: {2 * len(checks)} checks passed")


if __name__ == "__main__":
    main()
