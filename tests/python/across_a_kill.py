"""Applications of redis-py without any retry, while the active is killed: `across_a_kill.py HOST PORT STOP_FILE`.

Says `running` once every application works, and ends when the file exists. No application may see an exception other
than an honest `UNCERTAIN`; locks may also be lost, since the servers behind do not replicate into each other.
"""

import os
import sys
import threading
import traceback

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST, PORT, STOP_FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
BOUND_SECONDS = 10
failures = []
uncertain = []


def connect(protocol):
    return redis.Redis(
        host=HOST, port=PORT, protocol=protocol, socket_timeout=BOUND_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def stopped():
    return os.path.exists(STOP_FILE)


def locks(client, number):
    with client.lock("lock", timeout=BOUND_SECONDS, blocking_timeout=BOUND_SECONDS, sleep=0.001) as lock:
        mine = str(threading.get_ident()).encode()
        client.set("inside", mine)
        inside = client.get("inside")
        # Taken by somebody else, or gone with the server that was killed, only where the lock is gone too.
        assert inside == mine or not lock.owned(), inside


def pipelines(client, number):
    pipeline = client.pipeline(transaction=False)
    pipeline.set("p", "v").get("p").incr("n").hset("h", "f", "v").hget("h", "f")
    replies = pipeline.execute()
    assert replies[:2] == [True, b"v"] and replies[4] == b"v", replies


def transactions(client, number):
    with client.pipeline(transaction=True) as pipeline:
        replies = pipeline.incr("t").set("u", "v").get("u").execute()
    assert replies[1:] == [True, b"v"], replies


def compare_and_set(client, number):
    with client.pipeline() as pipeline:
        try:
            pipeline.watch("w")
            value = int(pipeline.get("w") or 0)
            pipeline.multi()
            pipeline.set("w", value + 1)
            pipeline.execute()
        except redis.WatchError:
            pass


def scripts(client, number):
    script = client.register_script("return redis.call('INCR', KEYS[1])")
    assert script(keys=["script"]) > 0


def blocked_pops(client, number):
    client.rpush(f"own:{number}", "x")
    client.blpop(f"own:{number}", timeout=0.5)


def waiting(client, number):
    # Mostly blocked, also at the moment of the kill.
    client.blpop("nothing", timeout=0.2)


def messages(client, number):
    pubsub = number.setdefault("pubsub", None) or client.pubsub()
    if number["pubsub"] is None:
        number["pubsub"] = pubsub
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=BOUND_SECONDS)["type"] == "subscribe"
    client.publish("news", "x")
    pubsub.get_message(timeout=0.01)


def run(application, protocol, number, ready):
    client = connect(protocol)
    number = {} if application is messages else number
    while not stopped():
        try:
            application(client, number)
            client.incr("rounds")
        except redis.exceptions.LockError:
            pass
        except redis.ResponseError as error:
            if "UNCERTAIN" not in str(error):
                failures.append(traceback.format_exc())
                return
            uncertain.append(str(error))
        except Exception:
            failures.append(traceback.format_exc())
            return
        finally:
            ready.set()


def main():
    applications = [locks, pipelines, transactions, compare_and_set, scripts, blocked_pops, waiting, messages]
    threads, events = [], []
    for protocol in (2, 3):
        for number, application in enumerate(applications):
            ready = threading.Event()
            events.append(ready)
            name = number + 100 * protocol
            threads.append(threading.Thread(target=run, args=(application, protocol, name, ready)))
    for thread in threads:
        thread.start()
    for ready in events:
        assert ready.wait(BOUND_SECONDS)
    print("running", flush=True)
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("\n".join(failures))
    print(f"redis-py {redis.__version__}: {len(threads)} applications lived on, {len(uncertain)} uncertain replies")


if __name__ == "__main__":
    main()
