import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { startTestApp } from '../support/app.js';
import { TRANSPORTS } from '../support/open-request.js';
import { creationLines, progressOf, type ResumableUpload } from '../support/resumable-client.js';
import { smallDisk, type SmallDisk } from '../support/small-disk.js';
import { untilSpooled } from '../support/spooled.js';
import { framed, Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { told } from '../support/told.js';
import type { WireResponse } from '../support/wire-response.js';

let disk: SmallDisk;
let stage: Stage;

beforeEach(async () => {
  disk = await smallDisk(16 * 1024);
  stage = await Stage.open({}, (options) => startTestApp({ ...options, data: join(disk.path, 'data') }));
});

afterEach(async () => {
  await stage.close();
  await disk.remove();
});

const BYTES = randomBytes(400_000);
const { length } = BYTES;
const OK = { status: 200, lines: framed([], 'ok'), body: 'ok' };

function expectUnavailable(response: WireResponse): void {
  expect(response.status).toBe(503);
  expect(response.header('Content-Type')).toBe('application/problem+json');
  expect(response.header('Retry-After')).toBe('5');
  expect(response.header('Upload-Complete')).toBe('?0');
  expect(JSON.parse(response.body.toString())).toEqual({
    type: 'about:blank',
    title: 'Service Unavailable',
    status: 503,
    detail: 'The upload cannot be stored right now. What was acknowledged is kept. Try again later.',
  });
}

function expectWhole(target: string): void {
  const requests = stage.requestsFor(target).map(({ size, sha256: sum }) => ({ size, sum }));
  expect(requests).toEqual([{ size: length, sum: sha256(BYTES) }]);
}

/** As `rm -rf` of one upload's bytes does. */
function removeBytes(upload: ResumableUpload): Promise<void> {
  return rm(join(stage.app.data, 'spool', idOf(upload)), { recursive: true });
}

function idOf({ target }: ResumableUpload): string {
  return target.split('/').at(-1)!;
}

describe.each(TRANSPORTS)('over %s', (transport) => {
  const open = (): StageClient => new StageClient(stage, transport, '10');

  test('a directory that turns read-only is told to whoever writes, reading goes on, and so does everything afterwards', async () => {
    const target = '/trouble/read-only';
    const client = open();
    const { expected } = client;
    const upload = await client.place({ target, length });
    const first = await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
    expect(told(first)).toEqual(expected.appended(100_000));
    await disk.setReadOnly(true);
    expectUnavailable(await upload.append(BYTES.subarray(100_000), { offset: 100_000, complete: true }));
    expectUnavailable(await upload.cancel());
    const headers = creationLines(client.dialect, { complete: true });
    expectUnavailable(await client.send({ method: 'POST', target, headers, body: BYTES }));
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(100_000, { complete: false, length }));
    expect((await client.send({ method: 'GET', target: '/elsewhere' })).status).toBe(200);
    await disk.setReadOnly(false);
    expect(told(await upload.retrieve())).toEqual(expected.retrieved(100_000, { complete: false, length }));
    const rest = await upload.append(BYTES.subarray(100_000), { offset: 100_000, complete: true });
    expect(told(rest)).toEqual(expected.answered(OK, length));
    expectWhole(target);
    // Its record may be written anew just now, beside the old one.
    const left = ['.store', `${idOf(upload)}.answer`, `${idOf(upload)}.log`].join();
    const files = async () => (await readdir(join(stage.app.data, 'uploads'))).sort().join();
    await until(async () => (await files()) === left, 'the files of the upload alone to be left');
  });

  test('an upload whose acknowledged bytes vanish while more come in is given up, and the next one works', async () => {
    const target = '/trouble/vanished';
    const client = open();
    const upload = await client.place({ target, length });
    await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
    const request = await client.append(upload, { offset: 100_000, complete: true, bytes: 300_000 });
    await request.send(BYTES.subarray(100_000, 250_000));
    await untilSpooled(stage.app.data, upload.url, 250_000);
    await removeBytes(upload);
    await request.send(BYTES.subarray(250_000));
    await request.end();
    const refused = await request.readFinal();
    expect(refused.status).toBe(410);
    expect(refused.body.toString()).toContain(
      'Stored bytes of this upload were lost or damaged, and it was given up. Begin a new one.',
    );
    expect((await upload.retrieve()).status).toBe(410);
    expect(stage.requestsFor(target)).toEqual([]);
    const next = await client.place({ target, length });
    const answer = await next.append(BYTES, { offset: 0, complete: true });
    expect(told(answer)).toEqual(client.expected.answered(OK, length));
    expectWhole(target);
  });

  test('an upload whose bytes vanish before any was acknowledged begins again from there', async () => {
    const target = '/trouble/nothing-lost';
    const client = open();
    const upload = await client.place({ target, length });
    const request = await client.append(upload, { offset: 0, complete: true, bytes: length });
    await request.send(BYTES.subarray(0, 50_000));
    await untilSpooled(stage.app.data, upload.url, 50_000);
    await removeBytes(upload);
    await request.send(BYTES.subarray(50_000));
    await request.end();
    expectUnavailable(await request.readFinal());
    expect(progressOf(client.dialect, await upload.retrieve())).toMatchObject({ offset: 0, complete: false });
    expect(told(await upload.finish(BYTES))).toEqual(client.expected.answered(OK, length));
    expectWhole(target);
  });

  test('a HEAD that ends a request whose bytes have vanished is told that the upload is gone', async () => {
    const client = open();
    const upload = await client.place({ target: '/trouble/head', length });
    await upload.append(BYTES.subarray(0, 100_000), { offset: 0, complete: false });
    const request = await client.append(upload, { offset: 100_000, complete: true, bytes: 300_000 });
    await request.send(BYTES.subarray(100_000, 250_000));
    await untilSpooled(stage.app.data, upload.url, 250_000);
    await removeBytes(upload);
    expect((await upload.retrieve()).status).toBe(410);
    expect((await request.readFinal()).status).toBe(410);
  });

  test('an upload whose bytes have vanished when it is whole never reaches the origin, and is given up', async () => {
    const target = '/trouble/before-delivery';
    const client = open();
    const upload = await client.place({ target, length });
    await upload.append(BYTES.subarray(0, length - 10), { offset: 0, complete: false });
    await removeBytes(upload);
    const refused = await upload.append(BYTES.subarray(-10), { offset: length - 10, complete: true });
    expect(refused.status).toBe(410);
    expect(progressOf(client.dialect, refused)).toMatchObject({ offset: undefined, complete: false });
    expect((await upload.retrieve()).status).toBe(410);
    expect(stage.requestsFor(target).filter(({ ended }) => ended !== 'cut')).toEqual([]);
    expect((await client.send({ method: 'GET', target: '/elsewhere' })).status).toBe(200);
  });
});
