"""Many clients of redis-py on asyncio, each incrementing its own counter: `crowd.py HOST PORT COUNT STOP_FILE`.

Says `running` once every client has had a reply, ends when the file exists, and then tells each counter's name and how
many increments were acknowledged. Any error ends it with one.
"""

import asyncio
import os
import sys

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

HOST, PORT, COUNT, STOP_FILE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


async def increment(number, ready, stop):
    client = redis.asyncio.Redis(
        host=HOST, port=PORT, protocol=2 + number % 2, single_connection_client=True, retry=Retry(NoBackoff(), 0)
    )
    count = 0
    async with client:
        while not stop.is_set():
            await client.incr(f"python:{number}")
            count += 1
            if count == 1:
                ready.release()
    return count


async def main():
    ready, stop = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(increment(number, ready, stop)) for number in range(COUNT)]
    for _ in tasks:
        await asyncio.wait_for(ready.acquire(), 10)
    print("running", flush=True)
    while not os.path.exists(STOP_FILE) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    stop.set()
    for number, count in enumerate(await asyncio.gather(*tasks)):
        print(f"python:{number} {count}")


if __name__ == "__main__":
    asyncio.run(main())
