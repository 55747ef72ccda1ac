import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from '@jest/globals';
import { openRequest, requestOnce } from '../support/client.js';
import { DIALECTS } from '../support/resumable-client.js';
import { makeCertificate, randomBytes, sha256, temporaryDirectory, until, within } from '../support/temporary.js';
import { startTestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';

// Issue 12, done when 6.
const UPLOADS = 50;
const ROUNDS = 4;
const PIECES = 8;

/** A configuration that differs from round to round where routes, limits and TLS are concerned. */
function configOf(origin: string, directory: string, round: number): string {
  return `origin: ${origin}
admin: 127.0.0.1:0
trusted_proxies: [${round % 2 === 0 ? '10.0.0.0/8' : '192.168.0.0/16'}]
limits: { max_size: ${100 + round}MiB, idle_timeout: ${60 + round}s, head_timeout: ${30 + round}s }
log: { level: ${round % 2 === 0 ? 'info' : 'warn'} }
listen:
  - 127.0.0.1:0
  - { address: 127.0.0.1:0, tls: { cert: ${directory}/cert.pem, key: ${directory}/key.pem } }
routes:
  - { name: files, match: { path: /files/**, methods: [POST] }, delivery: { concurrency: ${20 + round} } }
`;
}

/** Waits for a moment that differs from upload to upload, so that every reload meets them in other states. */
const pause = (number: number): Promise<void> => sleep(10 + (number % 7) * 15);

/** Sends an upload by its draft or tus, over the given listener and version of HTTP, and returns the origin's answer. */
async function send(app: TestApp, number: number, bytes: Buffer): Promise<string> {
  const url = app.urls[number % 2]!;
  const transport = number % 4 < 2 ? 'HTTP/1.1' : 'HTTP/2';
  const target = `/files/${number}`;
  const piece = Math.ceil(bytes.length / PIECES);
  const isTus = number % 5 === 0;
  const version = isTus
    ? [['Tus-Resumable', '1.0.0'] as const]
    : [['Upload-Draft-Interop-Version', DIALECTS[3 + (number % 5)]!] as const];
  const creation = isTus
    ? [...version, ['Upload-Length', `${bytes.length}`] as const]
    : [...version, ['Upload-Complete', '?0'] as const, ['Upload-Length', `${bytes.length}`] as const];
  const created = await untilTaken(() =>
    requestOnce(app.urls[0]!, { method: 'POST', target, headers: [...creation, ['Content-Length', '0']], body: '' }),
  );
  const path = new URL(created.header('location')!).pathname;
  const half = piece * (PIECES / 2);
  await append({ url, transport, path, version, isTus, number }, bytes.subarray(0, half), 0, false);
  const last = await append({ url, transport, path, version, isTus, number }, bytes.subarray(half), half, true);
  return last;
}

/** While the node is drained, new uploads are refused for a moment. */
async function untilTaken(create: () => ReturnType<typeof requestOnce>): ReturnType<typeof requestOnce> {
  return until(async () => {
    const response = await create();
    if (response.status === 503) {
      await sleep(100);
      return undefined;
    }
    expect(response.status).toBe(201);
    return response;
  }, 'the upload to be taken');
}

interface Place {
  readonly url: string;
  readonly transport: 'HTTP/1.1' | 'HTTP/2';
  readonly path: string;
  readonly version: (readonly [string, string])[];
  readonly isTus: boolean;
  readonly number: number;
}

async function append(place: Place, bytes: Buffer, offset: number, complete: boolean): Promise<string> {
  const { url, transport, path, version, isTus, number } = place;
  const kind = isTus ? 'application/offset+octet-stream' : 'application/partial-upload';
  const request = await openRequest(
    transport,
    url,
    {
      method: 'PATCH',
      target: path,
      headers: [
        ...version,
        ['Content-Type', kind],
        ['Upload-Offset', `${offset}`],
        ['Content-Length', `${bytes.length}`],
        ...(isTus ? [] : [['Upload-Complete', complete ? '?1' : '?0'] as const]),
      ],
    },
    { deadlineMs: 60_000 },
  );
  const size = Math.ceil(bytes.length / (PIECES / 2));
  for (let at = 0; at < bytes.length; at += size) {
    await request.send(bytes.subarray(at, at + size));
    await pause(number);
  }
  if (transport === 'HTTP/2') await request.end();
  const response = await request.readFinal();
  expect([response.status, number]).toEqual([complete ? 200 : response.status, number]);
  expect(response.status).toBeLessThan(300);
  await request.close();
  return response.body.toString();
}

test('50 uploads end while configuration, certificate and service change around them', async () => {
  const directory = await temporaryDirectory('rufh-reload-');
  const pairs = [makeCertificate(), makeCertificate()];
  const putPair = (round: number): void => {
    for (const name of ['cert', 'key'] as const) {
      writeFileSync(join(directory.path, 'new'), pairs[round % 2]![name]);
      renameSync(join(directory.path, 'new'), join(directory.path, `${name}.pem`));
    }
  };
  putPair(0);
  const origin = await startTestOrigin((request) => ({ body: request.sha256 }));
  const app = await startTestApp({
    config: configOf(origin.url, directory.path, 0),
    timings: { certificatePollMs: 20 },
  });
  const bodies = Array.from({ length: UPLOADS }, (_, number) => randomBytes(20_000 + number * 1000, number + 1));
  const sent = Promise.all(bodies.map((bytes, number) => send(app, number, bytes)));
  const state = { isOver: false };
  void sent.finally(() => (state.isOver = true)).catch(() => undefined);
  let rounds = 0;
  for (let round = 1; round <= ROUNDS || !state.isOver; round++, rounds++) {
    await sleep(150);
    expect((await app.reload(configOf(origin.url, directory.path, round))).kind).toBe('applied');
    putPair(round);
    expect((await fetch(`${app.adminUrl}/drain`, { method: 'POST' })).status).toBe(202);
    await sleep(20);
    expect((await fetch(`${app.adminUrl}/drain`, { method: 'DELETE' })).status).toBe(200);
    await sleep(20);
  }
  const answers = await within(sent, 'every client to end', 100_000);
  expect(answers).toEqual(bodies.map((bytes) => sha256(bytes)));
  const targets = origin.requests.map(({ target }) => target).sort();
  expect(targets).toEqual(bodies.map((_, number) => `/files/${number}`).sort());
  expect(rounds).toBeGreaterThanOrEqual(ROUNDS);
  await app.stop();
  await origin.close();
  await directory.remove();
});
