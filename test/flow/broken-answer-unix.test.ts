import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { startTestApp, type TestApp } from '../support/app.js';
import { connect, requestOnce } from '../support/raw-client.js';
import { startRawOrigin, type RawOrigin } from '../support/raw-origin.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

const BASE = 'http://proxy.example';

let directory: TemporaryDirectory;
let origin: RawOrigin;
let app: TestApp;
let socketPath: string;

beforeEach(async () => {
  directory = await temporaryDirectory();
  socketPath = join(directory.path, 'http.sock');
  origin = await startRawOrigin(async (exchange) => {
    await exchange.readBody();
    await exchange.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n');
    if (exchange.target === '/whole') await exchange.write('0\r\n\r\n');
    else exchange.end();
  });
  app = await startTestApp({ origin: origin.url, config: `listen: "unix:${socketPath}"` });
});

afterEach(async () => {
  await app.stop();
  await origin.close();
  await directory.remove();
});

/** As some proxies speak to what is behind them: without a length the end of the connection is the end of the answer. */
async function askInHttp10(head: string, body: string): Promise<string> {
  const client = await connect(BASE, { socketPath });
  await client.send(`${head}\r\n\r\n${body}`);
  const answer = await client.readFinal();
  await client.ended();
  return answer.body.toString();
}

test.each([
  ['passes through', 'GET /broken HTTP/1.0', '', /^begun$/],
  ['is for an upload', 'POST /broken HTTP/1.0\r\nUpload-Complete: ?1\r\nContent-Length: 3', 'abc', /"status":503/],
])('an answer that %s and breaks off does no harm to a proxy at a Unix socket', async (_, head, body, got) => {
  expect(await askInHttp10(head, body)).toMatch(got);
  const whole = await requestOnce(BASE, { method: 'GET', target: '/whole' }, { socketPath });
  expect(whole.body.toString()).toBe('begun');
});
