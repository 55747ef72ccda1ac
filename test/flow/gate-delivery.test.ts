import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Gate } from '../../src/model/route.js';
import { startTestApp, type TestApp } from '../support/app.js';
import { DeliveryRoom } from '../support/delivery-room.js';
import { startFakeOrigin, type FakeOrigin } from '../support/fake-origin.js';
import { clientDialect, createUpload } from '../support/resumable-client.js';
import { requestOnce } from '../support/raw-client.js';
import { temporaryDirectory, until, type TemporaryDirectory } from '../support/temporary.js';
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
  // Its end is told like any other.
  const ends = app!.log.filter(({ msg }) => msg === 'upload ended');
  expect(ends).toMatchObject([{ phase: 'answered', status: 422, size: 12, attempts: 0, client: '127.0.0.1' }]);
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

describe('the operator', () => {
  let directory: TemporaryDirectory;
  let verdict: string;
  let gate: Gate;
  let room: DeliveryRoom;

  beforeEach(async () => {
    directory = await temporaryDirectory();
    verdict = join(directory.path, 'verdict');
    gate = {
      kind: 'command',
      command: ['/bin/sh', '-c', `echo asked >> ${verdict}.log; . ${verdict}`],
      timeoutMs: 5000,
    };
  });

  afterEach(async () => {
    await room.close();
    await directory.remove();
  });

  const says = (script: string): void => writeFileSync(verdict, script);
  const timesAsked = (): number => readFileSync(`${verdict}.log`, 'utf8').split('\n').length - 1;
  const phaseOf = async (id: string) => (await room.store.get(id))?.phase;

  async function quarantined(): Promise<string> {
    says('echo macro; exit 3');
    room = await DeliveryRoom.open(origin.url, { rules: { gate } });
    const { id } = await room.whole({ body: 'picture' });
    const keptBack = { kind: 'undelivered', why: { reason: 'quarantined', problem: 'macro' } };
    expect(await room.result(id)).toMatchObject(keptBack);
    expect(await room.result(id)).toMatchObject(keptBack);
    expect([origin.requests.length, timesAsked()]).toEqual([0, 1]);
    return id;
  }

  /** What the gate says now, and what becomes of the upload then. */
  const verdicts: [string, string, string, number][] = [
    ['still keeps it back', 'echo macro; exit 3', 'undelivered', 0],
    ['refuses it now', 'echo virus; exit 1', 'answered', 0],
    ['allows it now', 'exit 0', 'answered', 1],
  ];

  // Issue 9, §6: what the gate had kept back went to the origin unasked.
  test.each(verdicts)(
    'has the gate asked again when it delivers again: one that %s',
    async (_, script, phase, sent) => {
      const id = await quarantined();
      says(script);
      expect(await room.delivery.redeliver(id)).toBe('begun');
      await until(() => timesAsked() === 2, 'the gate to be asked');
      await until(async () => (await phaseOf(id)) === phase, phase);
      await room.delivery.stop();
      expect([origin.requests.length, timesAsked(), await phaseOf(id)]).toEqual([sent, 2, phase]);
    },
  );

  test.each(verdicts)('can let it pass a gate that %s, which is not asked then', async (_, script) => {
    const id = await quarantined();
    says(script);
    expect(await room.delivery.redeliver(id, { skipGate: true })).toBe('begun');
    expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('picture');
    await until(async () => (await phaseOf(id)) === 'answered', 'the answer');
    expect(timesAsked()).toBe(1);
  });

  test('lets it pass for all attempts of this process, and after a restart the gate is asked again', async () => {
    says('exit 3');
    origin.answerWith({ status: 503 });
    const retry = { firstDelayMs: 1, longestDelayMs: 1, inBackgroundMs: 60_000 };
    // An attempt that the restart cuts off may be repeated.
    room = await DeliveryRoom.open(origin.url, { rules: { gate, guarantee: 'at_least_once' }, retry });
    const { id } = await room.whole({ body: 'picture' });
    await room.result(id);
    expect(await room.delivery.redeliver(id, { skipGate: true })).toBe('begun');
    await origin.waitForRequests(3);
    expect(timesAsked()).toBe(1);
    await room.restart();
    const sent = origin.requests.length;
    room.delivery.start();
    await until(() => timesAsked() === 2, 'the gate to be asked after the restart');
    await until(async () => (await phaseOf(id)) === 'undelivered', 'the gate to keep it back');
    expect(origin.requests.length - sent).toBeLessThanOrEqual(1);
  });

  test('has it asked again also between attempts of an upload that had passed', async () => {
    says('exit 0');
    origin.answerWith({ status: 503 });
    const retry = { firstDelayMs: 60_000, longestDelayMs: 60_000, inBackgroundMs: 600_000 };
    room = await DeliveryRoom.open(origin.url, { rules: { gate, waitMs: 50 }, retry });
    const { id } = await room.whole({ body: 'picture' });
    await room.result(id);
    await until(() => room.lines.some(({ msg }) => msg === 'delivery attempt'), 'the first attempt to end');
    expect([origin.requests.length, timesAsked()]).toEqual([1, 1]);
    says('exit 3');
    expect(await room.delivery.redeliver(id)).toBe('begun');
    await until(async () => (await phaseOf(id)) === 'undelivered', 'the gate to keep it back');
    expect([origin.requests.length, timesAsked()]).toEqual([1, 2]);
  });

  test('can let it pass while the gate cannot be asked, or thinks', async () => {
    says(`while ! [ -e ${verdict}.now ]; do sleep 0.05; done; exit 3`);
    room = await DeliveryRoom.open(origin.url, { rules: { gate } });
    const thinking = await room.whole({ body: 'one' });
    const first = room.result(thinking.id);
    await until(() => existsSync(`${verdict}.log`), 'the gate to think');
    expect(await room.delivery.redeliver(thinking.id, { skipGate: true })).toBe('begun');
    writeFileSync(`${verdict}.now`, '');
    expect(await first).toMatchObject({ kind: 'answered' });
    says('exit 7');
    const failing = await room.whole({ body: 'two' });
    const second = room.result(failing.id);
    await until(
      () => room.lines.some(({ msg }) => String(msg).startsWith('the gate gave no verdict')),
      'the gate to fail',
    );
    expect(await room.delivery.redeliver(failing.id, { skipGate: true })).toBe('begun');
    expect(await second).toMatchObject({ kind: 'answered' });
    expect(origin.requests.map(({ body }) => body.toString())).toEqual(['one', 'two']);
  });
});
