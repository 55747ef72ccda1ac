import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import type HttpProxy from 'http-proxy';
import { connect, requestOnce } from './client.js';
import { connectH2 } from './http2-client.js';
import { play } from './pass-through-front.js';

/**
 * A process of its own that passes a few requests through and prints the warnings Node gave, because a test runner keeps
 * warnings from its tests. `bare`: http-proxy as it is.
 */
const warnings: { name: string; code?: string }[] = [];
process.on('warning', ({ name, code }: Error & { code?: string }) => warnings.push({ name, code }));

await (process.argv[2] === 'bare' ? passThroughBare() : passThroughOurs());
await new Promise(setImmediate);
process.stdout.write(JSON.stringify(warnings.filter(({ name }) => name !== 'ExperimentalWarning')));

async function passThroughOurs(): Promise<void> {
  await play('ours', async ({ front }) => {
    const client = await connect(front.url);
    await client.request({ method: 'GET', target: '/' });
    const body = '5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n';
    await client.request({ method: 'DELETE', target: '/', headers: [['Transfer-Encoding', 'chunked']], body });
    await client.send(Array.from({ length: 30 }, () => 'GET / HTTP/1.1\r\nHost: x\r\n\r\n').join(''));
    for (let count = 0; count < 30; count++) await client.readFinal();
    await client.sendHead('GET', '/', [
      ['Connection', 'Upgrade'],
      ['Upgrade', 'websocket'],
    ]);
    await client.readFinal();
    client.destroy();
  });
  await play(
    'ours',
    async ({ front }) => {
      const client = await connectH2(front.url);
      await client.request({ method: 'POST', target: '/', body: 'hello' });
      await client.close();
    },
    {
      speaks: 'h2c',
      script: (exchange) => exchange.respond({ status: 200, reason: 'Fine', headers: [['Connection', 'close']] }),
    },
  );
}

async function passThroughBare(): Promise<void> {
  const origin = createServer((_, response) => response.end('ok'));
  const port = await listen(origin);
  const httpProxy = createRequire(import.meta.url)('http-proxy') as typeof HttpProxy;
  const proxy = httpProxy.createProxyServer({ target: `http://127.0.0.1:${port}` });
  const front = createServer((request, response) => proxy.web(request, response));
  await requestOnce(`http://127.0.0.1:${await listen(front)}`, { method: 'GET', target: '/' });
  front.close();
  origin.close();
}

async function listen(server: ReturnType<typeof createServer>): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}
