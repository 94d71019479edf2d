// What the scripts share: they go round until a file exists, say how far they are, and end with 1 at any error but an
// honest UNCERTAIN.
import { existsSync } from "node:fs";

export const [HOST, PORT, STOP_FILE] = [process.argv[2], Number(process.argv[3]), process.argv[4]];

export function fail(what, error) {
  console.error(`${what}: ${error?.stack ?? error}`);
  process.exit(1);
}

export function assert(condition, what) {
  if (!condition) fail(what, new Error("not as expected"));
}

/** Runs every application again and again, all at once; says `running` after the first round of each. */
export async function goRound(applications) {
  let [rounds, uncertain, begun] = [0, 0, 0];
  await Promise.all(
    applications.map(async (application) => {
      let isFirst = true;
      while (!existsSync(STOP_FILE)) {
        try {
          await application();
          rounds += 1;
          if (rounds % 10 === 0) console.log(`rounds ${rounds}`);
        } catch (error) {
          const told = [error, ...(error.errorReplies ?? [])].map(String).join();
          if (!told.includes("UNCERTAIN")) fail(application.name, error);
          uncertain += 1;
        }
        if (isFirst) {
          isFirst = false;
          begun += 1;
          if (begun === applications.length) console.log("running");
        }
      }
    }),
  );
  console.log(`${rounds} rounds, ${uncertain} uncertain`);
  process.exit(0);
}
