import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { requestOnce } from '../support/raw-client.js';
import { until } from '../support/temporary.js';
import type { WireResponse } from '../support/wire-response.js';

let origin: FakeOrigin;
let app: TestApp;
let answer: () => void;

beforeEach(async () => {
  const told = new Promise<void>((resolve) => (answer = resolve));
  origin = await startFakeOrigin({ status: 422, headers: [['X-Own', 'yes']], body: 'bad picture', after: told });
});

afterEach(async () => {
  answer();
  await app.stop();
  await origin.close();
});

function send(method: string, target: string, headers: HeaderLine[] = [], body?: string): Promise<WireResponse> {
  return requestOnce(app.url, { method, target, headers: [['Host', 'api'], ...headers], body });
}

async function statusAt(target: string): Promise<Record<string, unknown>> {
  return JSON.parse((await send('GET', target)).body.toString()) as Record<string, unknown>;
}

test.each<[string, string, HeaderLine[]]>([
  ['a client that prefers it', '', [['Prefer', 'wait=5, respond-async']]],
  ['every client of a route that says so', 'delivery: { respond: accepted }', []],
])('%s gets 202 at once, and the answer at its status URL', async (_, config, headers) => {
  app = await startTestApp({ origin: origin.url, config });
  const accepted = await send('POST', '/files', [['Upload-Complete', '?1'], ...headers], 'hello');
  expect(accepted.status).toBe(202);
  expect(accepted.header('Upload-Complete')).toBe('?1');
  expect(accepted.header('Upload-Offset')).toBe('5');
  expect(accepted.header('Preference-Applied')).toBe('respond-async');
  const status = new URL(accepted.header('Location')!).pathname;
  expect(JSON.parse(accepted.body.toString())).toEqual({ status: accepted.header('Location') });
  const upload = status.replace(/\/status$/, '');

  await origin.waitForRequests(1);
  expect(await statusAt(status)).toMatchObject({ phase: 'delivering', offset: 5, length: 5, attempts: 1 });
  expect((await send('GET', `${upload}/answer`)).status).toBe(404);
  const shown = await send('HEAD', upload);
  expect([shown.header('Upload-Offset'), shown.header('Upload-Complete')]).toEqual(['5', '?0']);

  answer();
  await until(async () => (await statusAt(status))['phase'] === 'answered', 'the answer');
  expect(await statusAt(status)).toMatchObject({ answer: { status: 422, at: 'answer' } });
  const kept = await send('GET', `${upload}/answer`);
  expect([kept.status, kept.header('X-Own'), kept.body.toString()]).toEqual([422, 'yes', 'bad picture']);
  expect(origin.requests.length).toBe(1);
});

test('pages of uploads that do not exist are not found, and nothing can be written to them', async () => {
  app = await startTestApp({ origin: origin.url });
  const none = `/.uploads/${'a'.repeat(32)}`;
  expect((await send('GET', `${none}/status`)).status).toBe(404);
  expect((await send('GET', `${none}/answer`)).status).toBe(404);
  expect((await send('DELETE', `${none}/status`)).status).toBe(405);
});
