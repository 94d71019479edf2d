// A BullMQ queue with a worker: each job's result comes back. A job that waits in a backend when it is left stays
// there, since the backends do not replicate into each other: it is given up after 2 s.
import { Queue, QueueEvents, Worker } from "bullmq";
import { HOST, PORT, assert, goRound } from "./rounds.mjs";

const connection = { host: HOST, port: PORT, maxRetriesPerRequest: null };
const errors = [];
const worker = new Worker("jobs", async (job) => job.data.one + 1, { connection });
const queue = new Queue("jobs", { connection });
const events = new QueueEvents("jobs", { connection });
for (const part of [worker, queue, events]) part.on("error", (error) => errors.push(error));
await Promise.all([worker.waitUntilReady(), queue.waitUntilReady(), events.waitUntilReady()]);

// BullMQ asks in vain for some promises' ends: an uncertain script inside it must not end the process.
process.on("unhandledRejection", (error) => {
  if (!String(error).includes("UNCERTAIN")) throw error;
  console.log(`told: ${error}`);
});

let one = 0;
await goRound([
  async function jobs() {
    one += 1;
    const job = await queue.add("add", { one });
    const result = await Promise.race([
      job.waitUntilFinished(events).catch((error) => error),
      new Promise((go) => setTimeout(() => go("given up"), 2000)),
    ]);
    if (result !== one + 1) console.log(`no result: ${result}`);
    for (const error of errors.splice(0)) {
      console.log(`told: ${error}`);
      assert(!/ECONN|closed/.test(String(error)), String(error));
    }
  },
]);
