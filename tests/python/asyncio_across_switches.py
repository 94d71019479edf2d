"""Applications of redis-py on asyncio, without any retry, across switches: `asyncio_across_switches.py HOST PORT STOP_FILE`.

Says `running` once every application works and `rounds N` while they go on, and ends when the file exists. No
application may see an exception other than an honest `UNCERTAIN`, whose number it tells; a lock may be lost, since the
servers behind do not replicate into each other.
"""

import asyncio
import os
import sys

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

HOST, PORT, STOP_FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
BOUND_SECONDS = 10


async def commands(client, name):
    await client.set(f"{name}:k", "v")
    await client.hset(f"{name}:h", mapping={"a": 1, "b": 2})
    await client.incr(f"{name}:n")


async def pipelines(client, name):
    async with client.pipeline(transaction=False) as pipeline:
        for number in range(20):
            pipeline.set(f"{name}:{number}", number)
        assert all(await pipeline.execute())


async def transactions(client, name):
    async with client.pipeline(transaction=True) as pipeline:
        replies = await pipeline.set(f"{name}:t", "v").get(f"{name}:t").execute()
    assert replies == [True, b"v"], replies


async def compare_and_set(client, name):
    async with client.pipeline() as pipeline:
        try:
            await pipeline.watch(f"{name}:w")
            value = int(await pipeline.get(f"{name}:w") or 0)
            pipeline.multi()
            pipeline.set(f"{name}:w", value + 1)
            await pipeline.execute()
        except redis.WatchError:
            pass


async def locks(client, name):
    async with client.lock(f"{name}:lock", timeout=BOUND_SECONDS, blocking_timeout=BOUND_SECONDS, sleep=0.001):
        await client.incr(f"{name}:inside")


async def blocked_pops(client, name):
    await client.rpush(f"{name}:q", "x")
    await client.blpop(f"{name}:q", timeout=0.2)


async def messages(client, name):
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(f"{name}:news")
        confirmation = await pubsub.get_message(timeout=BOUND_SECONDS)
        assert confirmation["type"] == "subscribe", confirmation
        await client.publish(f"{name}:news", "x")
        await pubsub.get_message(timeout=0.05)


class State:
    stopped = False
    rounds = 0
    uncertain = 0


async def run(application, protocol, ready):
    client = redis.asyncio.Redis(
        host=HOST, port=PORT, protocol=protocol, socket_timeout=BOUND_SECONDS, retry=Retry(NoBackoff(), 0)
    )
    name = f"{application.__name__}:{protocol}"
    async with client:
        while not State.stopped:
            try:
                await application(client, name)
                State.rounds += 1
            except redis.exceptions.LockError:
                pass
            except redis.ResponseError as error:
                if "UNCERTAIN" not in str(error):
                    raise RuntimeError(f"{name}: {error}") from error
                State.uncertain += 1
            ready.set()


async def main():
    tasks, events = [], []
    for protocol in (2, 3):
        for application in (commands, pipelines, transactions, compare_and_set, locks, blocked_pops, messages):
            events.append(asyncio.Event())
            tasks.append(asyncio.create_task(run(application, protocol, events[-1])))
    for event in events:
        await asyncio.wait_for(event.wait(), BOUND_SECONDS)
    print("running", flush=True)
    while not os.path.exists(STOP_FILE) and not any(task.done() for task in tasks):
        print(f"rounds {State.rounds}", flush=True)
        await asyncio.sleep(0.02)
    State.stopped = True
    await asyncio.gather(*tasks)
    print(f"{State.uncertain} uncertain")


if __name__ == "__main__":
    asyncio.run(main())
