import { afterEach, beforeEach, expect, test } from '@jest/globals';
import type { Gate } from '../../src/model/route.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { DeliveryRoom } from '../support/delivery-room.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { clientDialect, createUpload } from '../support/resumable-client.js';
import { requestOnce } from '../support/raw-client.js';
import { until } from '../support/temporary.js';
import type { WireRequest } from '../support/wire-response.js';

let origin: FakeOrigin;
let app: TestApp | undefined;

beforeEach(async () => {
  origin = await startFakeOrigin({ status: 201, body: 'made' });
});

afterEach(async () => {
  await app?.stop();
  app = undefined;
  await origin.close();
});

/** Looks for a word in the whole upload, as a virus scanner looks for its signatures. */
const SCANNER = `["/bin/sh", "-c", "if grep -q VIRUS; then echo infected; exit 1; fi"]`;

async function start(config: string): Promise<void> {
  app = await startTestApp({ origin: origin.url, config });
}

const send = (request: WireRequest): ReturnType<typeof requestOnce> =>
  requestOnce(app!.url, { ...request, headers: [['Host', 'api'], ...(request.headers ?? [])] });

async function uploadInPieces(...pieces: string[]): ReturnType<typeof requestOnce> {
  const dialect = clientDialect('9');
  const upload = await createUpload(dialect, send, { method: 'POST', target: '/files', body: pieces[0] });
  let offset = pieces[0]!.length;
  for (const piece of pieces.slice(1, -1)) {
    await upload.append(piece, { offset, complete: false });
    offset += piece.length;
  }
  return upload.append(pieces.at(-1)!, { offset, complete: true });
}

test('what the gate allows is delivered', async () => {
  await start(`delivery: { gate: { command: ${SCANNER} } }`);
  const response = await uploadInPieces('all ', 'is ', 'well');
  expect([response.status, response.body.toString()]).toEqual([201, 'made']);
  expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('all is well');
});

test('what it refuses never reaches the origin, in however many pieces it came, and the refusal is kept', async () => {
  await start(`delivery: { gate: { command: ${SCANNER} } }`);
  const response = await uploadInPieces('a VI', 'RU', 'S here');
  expect([response.status, response.body.toString()]).toEqual([422, 'infected\n']);
  expect(response.header('Upload-Complete')).toBe('?1');
  expect(origin.requests).toEqual([]);
});

test('a gate that fails lets nothing pass, and is asked again', async () => {
  const scanner = await startFakeOrigin({ status: 500 });
  await start(
    `delivery: { gate: { http: "${scanner.url}" }, wait: 50ms, retry: { while_waiting: 50ms, first_delay: 10ms, longest_delay: 50ms } }`,
  );
  const response = await uploadInPieces('all ', 'well');
  expect([503, 504]).toContain(response.status);
  expect(response.header('Upload-Complete')).toBe('?0');
  expect(origin.requests).toEqual([]);
  scanner.answerWith({ status: 204 });
  await origin.waitForRequests(1);
  await scanner.close();
});

test('what it keeps back is final for the client, and the operator can let it pass', async () => {
  const gate: Gate = { kind: 'command', command: ['/bin/sh', '-c', 'echo macro; exit 3'], timeoutMs: 5000 };
  const room = await DeliveryRoom.open(origin.url, { rules: { gate } });
  const { id } = await room.whole({ body: 'picture' });
  const keptBack = { kind: 'undelivered', why: { reason: 'quarantined', problem: 'macro' } };
  expect(await room.result(id)).toMatchObject(keptBack);
  expect(await room.result(id)).toMatchObject(keptBack);
  expect(origin.requests).toEqual([]);
  expect(await room.delivery.redeliver(id)).toBe('begun');
  expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('picture');
  await until(async () => (await room.store.get(id))?.phase === 'answered', 'the answer');
  await room.close();
});
