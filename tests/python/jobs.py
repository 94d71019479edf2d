"""Job queues across switches: `jobs.py worker|producer celery|rq HOST PORT STOP_FILE`.

The worker runs jobs for ever. The producer gives it one job at a time and waits for its result; says `running` after
the first result, `result N` after each, `paused` while STOP_FILE.pause exists, and ends when STOP_FILE does. Servers that do not replicate into each other
each keep their own queue, so a job that waits in one at the moment of a switch stays there: such a job is given up
after a while, and counted.
"""

import os
import sys
import time

ROLE, QUEUE, HOST, PORT, STOP_FILE = sys.argv[1:6]
URL = f"redis://{HOST}:{PORT}/0"
# Beyond what a job takes on a machine that has no time for it.
RESULT_SECONDS = 6


def add(one, other):
    return one + other


def celery_application():
    import celery

    application = celery.Celery("jobs", broker=URL, backend=URL)
    application.conf.update(broker_connection_retry_on_startup=False, worker_hijack_root_logger=False)
    return application, application.task(name="add")(add)


def celery_worker():
    application, _ = celery_application()
    application.worker_main(["worker", "--pool=threads", "--concurrency=2", "--loglevel=WARNING"])


def celery_job():
    from celery.exceptions import TimeoutError

    _, task = celery_application()

    def run(one, other):
        try:
            return task.delay(one, other).get(timeout=RESULT_SECONDS)
        except TimeoutError:
            return None

    return run


def rq_worker():
    import redis
    import rq

    connection = redis.Redis.from_url(URL)
    rq.SimpleWorker([rq.Queue(connection=connection)], connection=connection).work(logging_level="WARNING")


def rq_job():
    import redis
    import rq

    queue = rq.Queue(connection=redis.Redis.from_url(URL))

    def run(one, other):
        job = queue.enqueue("operator.add", one, other)
        deadline = time.monotonic() + RESULT_SECONDS
        while time.monotonic() < deadline:
            result = job.latest_result()
            if result is not None:
                return result.return_value
            time.sleep(0.005)
        return None

    return run


def produce(run):
    results, given_up = 0, 0
    while not os.path.exists(STOP_FILE):
        if os.path.exists(f"{STOP_FILE}.pause"):
            print("paused", flush=True)
            while os.path.exists(f"{STOP_FILE}.pause"):
                time.sleep(0.01)
        answer = run(results, 1)
        if answer is None:
            given_up += 1
            print("given up", flush=True)
            continue
        assert answer == results + 1, (answer, results)
        results += 1
        if results == 1:
            print("running", flush=True)
        print(f"result {results}", flush=True)
    print(f"{results} results, {given_up} given up")


if __name__ == "__main__":
    if ROLE == "worker":
        {"celery": celery_worker, "rq": rq_worker}[QUEUE]()
    else:
        produce({"celery": celery_job, "rq": rq_job}[QUEUE]())
