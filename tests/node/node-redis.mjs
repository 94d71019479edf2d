// node-redis over both protocols, without reconnecting: HELLO, pipelines, MULTI, WATCH, pub/sub, blocked pops.
import { createClient } from "redis";
import { HOST, PORT, assert, fail, goRound } from "./rounds.mjs";

async function connect(name, RESP) {
  const client = createClient({ socket: { host: HOST, port: PORT, reconnectStrategy: false }, name, RESP, database: 1 });
  client.on("error", (error) => fail(name, error));
  await client.connect();
  return client;
}

const applications = [];
for (const RESP of [2, 3]) {
  const plain = await connect(`plain${RESP}`, RESP);
  const [blocked, watcher, subscriber] = await Promise.all(
    ["blocked", "watcher", "subscriber"].map((name) => connect(`${name}${RESP}`, RESP)),
  );
  let heard = 0;
  await subscriber.subscribe(`news:${RESP}`, () => (heard += 1));
  await subscriber.pSubscribe(`new?:${RESP}`, () => (heard += 1));

  applications.push(
    async function commands() {
      assert((await plain.set(`k:${RESP}`, "v")) === "OK", "SET");
      await plain.hSet(`h:${RESP}`, { a: 1, b: 2 });
      assert((await plain.incr(`n:${RESP}`)) > 0, "INCR");
    },
    async function pipelines() {
      const sets = Array.from({ length: 50 }, (_, number) => plain.set(`p:${RESP}:${number}`, String(number)));
      for (const reply of await Promise.all(sets)) assert(reply === "OK", "a pipelined SET");
    },
    async function transactions() {
      const [done, value] = await plain.multi().set(`t:${RESP}`, "v").get(`t:${RESP}`).exec();
      assert(done === "OK" && value === "v", "MULTI");
    },
    async function compareAndSet() {
      await watcher.watch(`w:${RESP}`);
      const value = Number((await watcher.get(`w:${RESP}`)) ?? 0);
      try {
        await watcher.multi().set(`w:${RESP}`, String(value + 1)).exec();
      } catch (error) {
        if (error.constructor.name !== "WatchError") throw error;
      }
    },
    async function blockedPops() {
      await plain.rPush(`q:${RESP}`, "x");
      await blocked.blPop(`q:${RESP}`, 0.2);
    },
    async function messages() {
      const before = heard;
      await plain.publish(`news:${RESP}`, "x");
      for (let wait = 0; wait < 100 && heard === before; wait += 1) await new Promise((go) => setTimeout(go, 2));
    },
    async function scans() {
      for await (const keys of plain.scanIterator({ MATCH: `p:${RESP}:*`, COUNT: 1000 })) assert(keys, "SCAN");
    },
  );
}

await goRound(applications);
