// ioredis, without any retry: its hello sequence, pipelines, MULTI, scripts, a lock, pub/sub, blocked pops.
import { randomUUID } from "node:crypto";
import Redis from "ioredis";
import { HOST, PORT, assert, fail, goRound } from "./rounds.mjs";

function connect(name) {
  const client = new Redis({ host: HOST, port: PORT, connectionName: name, db: 1, retryStrategy: null,
    maxRetriesPerRequest: 0 });
  client.on("error", (error) => fail(name, error));
  client.on("close", () => fail(name, new Error("the connection was closed")));
  return client;
}

const [plain, blocked, publisher, subscriber, watcher] =
  ["plain", "blocked", "publisher", "subscriber", "watcher"].map(connect);
plain.defineCommand("double", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], 2)" });
let heard = 0;
await subscriber.subscribe("news");
await subscriber.psubscribe("ne*");
subscriber.on("message", () => (heard += 1));
subscriber.on("pmessage", () => (heard += 1));

async function commands() {
  assert((await plain.set("k", "v")) === "OK", "SET");
  await plain.hset("h", { a: 1, b: 2 });
  assert((await plain.incr("n")) > 0, "INCR");
  assert((await plain.client("GETNAME")) === "plain", "GETNAME");
}

async function pipelines() {
  const pipeline = plain.pipeline();
  for (let number = 0; number < 50; number += 1) pipeline.set(`p:${number}`, number);
  for (const [error, reply] of await pipeline.exec()) {
    if (error) throw error;
    assert(reply === "OK", "a pipelined SET");
  }
}

async function transactions() {
  const replies = await plain.multi().set("t", "v").get("t").exec();
  assert(replies[1][1] === "v", "MULTI");
}

async function scripts() {
  assert((await plain.double("d")) >= 2, "a script");
}

async function locks() {
  const token = randomUUID();
  if ((await watcher.set("lock", token, "PX", 5000, "NX")) !== "OK") return;
  await watcher.eval("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0", 1,
    "lock", token);
}

async function blockedPops() {
  await plain.rpush("q", "x");
  await blocked.blpop("q", 0.2);
}

async function messages() {
  const before = heard;
  await publisher.publish("news", "x");
  for (let wait = 0; wait < 100 && heard === before; wait += 1) await new Promise((go) => setTimeout(go, 2));
}

await goRound([commands, pipelines, transactions, scripts, locks, blockedPops, messages]);
