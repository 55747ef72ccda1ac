import { createServer } from 'node:net';

/**
 * A free port of 127.0.0.1, with a free one 10000 above it. Below those that the system gives to connections: nobody else
 * gets it while its server is away, not even a client that tries to reach it.
 */
export async function serverPort(): Promise<number> {
  for (;;) {
    // Above 10080, which `fetch` refuses to ask.
    const port = 10_100 + Math.floor(Math.random() * 9_900);
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
