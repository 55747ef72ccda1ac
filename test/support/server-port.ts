import { createServer } from 'node:net';

/** Below those that the system gives to connections, and above 10080, which `fetch` refuses to ask. */
const FIRST = 10_100;
const COUNT = 9_600;

/** Test files run side by side in so many processes at most; each takes its ports from a part of its own. */
const PARTS = 8;
const SIZE = COUNT / PARTS;
const part = Number(process.env['JEST_WORKER_ID'] ?? 0) % PARTS;

/** No port comes twice: who got one before may not listen there yet. */
let next = Math.floor(Math.random() * SIZE);

/**
 * A free port of 127.0.0.1, with a free one 10000 above it. Below those that the system gives to connections: nobody else
 * gets it while its server is away, not even a client that tries to reach it.
 */
export async function serverPort(): Promise<number> {
  for (;;) {
    const port = FIRST + part * SIZE + (next++ % SIZE);
    if ((await isFree(port)) && (await isFree(port + 10_000))) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}
