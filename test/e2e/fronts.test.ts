import { readFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { exchangeOver, openRequest, type OpenRequest, type Transport } from '../support/client.js';
import { Front, FRONTS, frontsTable } from '../support/front-proxies.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { appendLines, clientDialect, createUpload, creationLines } from '../support/resumable-client.js';
import { randomBytes, sha256, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

const DIALECT = clientDialect('8');
const BYTES = randomBytes(3_000_000);
const PIECE = 1024 * 1024;
const BIG = randomBytes(24 * PIECE, 2);

describe.each(FRONTS)('behind $name with the configuration we ship', (kind) => {
  let origin: TestOrigin;
  let application: TestOrigin;
  let proxy: ProxyProcess;
  let front: Front;
  const opened: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    origin = await startTestOrigin({ status: 201, headers: [['Location', '/files/7']], body: 'made' });
    application = await startTestOrigin({ status: 200, body: 'of the application' });
    opened.push(() => Promise.all([origin.close(), application.close()]));
    proxy = await startProxy({
      origin: origin.url,
      config: `trusted_proxies: [{ cidr: 127.0.0.1, relays_interim: ${kind.interims} }]`,
    });
    opened.push(() => proxy.stop());
    const places = { proxy: new URL(proxy.url).host, application: new URL(application.url).host };
    front = await Front.start(kind, places);
    opened.push(() => front.stop());
  });

  afterAll(async () => {
    for (const close of opened.reverse()) await close();
  });

  function requestsFor(target: string) {
    return origin.requests.filter((request) => request.target === target);
  }

  describe.each(kind.transports)('over %s', (transport) => {
    const send = (request: WireRequest) => exchangeOver(transport, front.url, request);

    test.each([
      { what: 'on the paths with uploads', prefix: '', at: '/files/one' },
      { what: 'below a prefix that is taken off', prefix: '/app', at: '/app/files/two' },
    ])('an upload that is cut goes on where Location leads, $what', async ({ prefix, at }) => {
      const target = `${at.slice(prefix.length)}-${transport}`;
      const upload = await createUpload(DIALECT, send, { method: 'POST', target: `${at}-${transport}` });
      expect(upload.url).toMatch(new RegExp(`^${front.url}${prefix}/\\.uploads/[A-Za-z0-9_-]{32}$`));
      const offset = await cutAfter(BYTES.length / 3, (headers) => begin(transport, upload.target, headers));
      const answer = await upload.finish(BYTES);
      expect([answer.status, answer.body.toString()]).toEqual([201, 'made']);
      expect(offset).toBeGreaterThan(0);
      const [delivered, ...others] = requestsFor(target);
      expect(delivered).toMatchObject({ size: BYTES.length, sha256: sha256(BYTES) });
      expect(delivered!.header('X-Forwarded-Proto')).toBe(kind.scheme);
      expect(delivered!.header('Host')).toBe(new URL(front.url).host);
      expect(others).toEqual([]);

      /** Cuts the first append with its length announced and gives what was kept of it. */
      async function cutAfter(bytes: number, open: (headers: WireRequest['headers']) => Promise<OpenRequest>) {
        const request = await open([
          ...appendLines(DIALECT, { offset: 0, complete: true }),
          ['Content-Length', `${BYTES.length}`],
        ]);
        return cut(request, bytes, () => upload.offset());
      }
    });

    test('a body without a length reaches the spool as it comes, not when it is whole', async () => {
      const upload = await createUpload(DIALECT, send, { method: 'POST', target: `/files/stream-${transport}` });
      const request = await begin(transport, upload.target, appendLines(DIALECT, { offset: 0, complete: true }));
      expect(await cut(request, BYTES.length / 3, () => upload.offset())).toBeGreaterThan(0);
      expect((await upload.finish(BYTES)).status).toBe(201);
    });

    test('a big body goes through', async () => {
      const target = `/files/big-${transport}`;
      const answer = kind.mayCut ? await sendInParts(target) : await sendAtOnce(target);
      expect([answer.status, answer.header('Location')]).toEqual([201, '/files/7']);
      expect(requestsFor(target)).toMatchObject([{ size: BIG.length, sha256: sha256(BIG) }]);

      async function sendAtOnce(target: string): Promise<WireResponse> {
        const headers = [...creationLines(DIALECT, { complete: true }), ['Content-Length', `${BIG.length}`] as const];
        const request = await begin(transport, target, headers);
        for (let at = 0; at < BIG.length; at += PIECE) await request.send(BIG.subarray(at, at + PIECE));
        await request.end();
        const answer = await request.readFinal();
        await request.close();
        return answer;
      }

      /** As a client does that goes on when its connection is cut. */
      async function sendInParts(target: string): Promise<WireResponse> {
        const upload = await createUpload(DIALECT, send, { method: 'POST', target });
        return until(() => upload.finish(BIG).catch(() => undefined), 'the upload to go on');
      }
    });

    test(kind.interims ? 'the client sees a 104 before it has sent its body' : 'the client sees no 104', async () => {
      const request = await begin(transport, `/files/interim-${transport}`, [
        ...creationLines(DIALECT, { complete: true }),
        ['Content-Length', `${BYTES.length}`],
      ]);
      if (kind.interims) {
        const interim = await request.readInterim();
        const said = [interim.status, interim.header('Location')];
        expect(said).toEqual([104, expect.stringContaining(`${front.url}/.uploads/`)]);
      }
      await request.send(BYTES);
      await request.end();
      const answer = await request.readFinal();
      await request.close();
      expect([answer.status, answer.interims.some(({ status }) => status === 104)]).toEqual([201, kind.interims]);
    });

    test('other paths go to the application, and other requests to the origin', async () => {
      expect((await send({ method: 'GET', target: '/elsewhere' })).body.toString()).toBe('of the application');
      expect((await send({ method: 'GET', target: '/files/seen' })).body.toString()).toBe('made');
    });

    test.each([
      ['/%66iles/x', '/files/x'],
      ['//files/x', '/files/x'],
      ['/a/../files/x', '/files/x'],
      ['/./files/x', '/files/x'],
      ['/FILES/x', '/FILES/x'],
      ['/%46iles/x', '/Files/x'],
    ])('%s does not go past the split', async (written, normalised) => {
      const seen = [origin.requests.length, application.requests.length];
      const { status } = await send({ method: 'GET', target: written });
      const refused = normalised.startsWith('/files') ? undefined : kind.otherCase;
      const sentOn = kind.spellings === 'normalised' ? normalised : written;
      const targets = origin.requests.slice(seen[0]).map(({ target }) => target);
      expect({ status, targets }).toEqual(
        refused ? { status: refused, targets: [] } : { status: 201, targets: [sentOn] },
      );
      expect(application.requests.slice(seen[1])).toEqual([]);
    });

    test('nobody hears what the client says of proxies', async () => {
      // X-Forwarded-For is a list that fronts may add to; trusted_proxies says from which end it is believed.
      const forged = ['Forwarded', ...['Host', 'Port', 'Prefix', 'Proto'].map((name) => `X-Forwarded-${name}`)];
      const headers = forged.map((name) => [name, `forged${name}`] as const);
      for (const { at, by } of [
        { at: '/files/seen', by: origin },
        { at: '/app/files/seen', by: origin },
        { at: '/elsewhere', by: application },
      ]) {
        await send({ method: 'GET', target: at, headers });
        const said = by.requests.at(-1)!.headers.filter(([, value]) => value.includes('forged'));
        expect([at, said]).toEqual([at, []]);
      }
      const upload = await createUpload(DIALECT, send, { method: 'POST', target: '/files/forged', headers });
      expect(upload.url).toMatch(new RegExp(`^${front.url}/\\.uploads/`));
    });

    test('a restart of rufh-proxy costs a client no more than going on', async () => {
      const upload = await createUpload(DIALECT, send, { method: 'POST', target: `/files/restart-${transport}` });
      const request = await begin(transport, upload.target, [
        ...appendLines(DIALECT, { offset: 0, complete: true }),
        ['Content-Length', `${BYTES.length}`],
      ]);
      await request.send(BYTES.subarray(0, BYTES.length / 3));
      await until(async () => (await recordedBytes()) > 0, 'bytes to be committed');
      expect(await proxy.kill('SIGTERM')).toBe(0);
      const seen = await Promise.race([statusOrCut(request.readFinal()), goOnSending(request)]);
      await request.close();
      const refused = await statusOrCut(send({ method: 'HEAD', target: upload.target }));
      proxy = await proxy.restart();
      const answer = await until(() => upload.finish(BYTES).catch(() => undefined), 'the upload to go on');
      expect(answer.status).toBe(201);
      expect({ running: seen, next: refused }).toEqual(kind.restart);
    });
  });

  function begin(transport: Transport, target: string, headers: WireRequest['headers']): Promise<OpenRequest> {
    const isAppend = target.includes('/.uploads/');
    return openRequest(transport, front.url, { method: isAppend ? 'PATCH' : 'POST', target, headers });
  }

  /** Sends so many bytes, waits until some of them are kept, and goes away. */
  async function cut(request: OpenRequest, bytes: number, offset: () => Promise<number>): Promise<number> {
    await request.send(BYTES.subarray(0, bytes));
    await until(async () => (await recordedBytes()) > 0, 'bytes to be committed');
    await request.close();
    return until(offset, 'an offset');
  }

  /** As an upload does; some fronts tell of a lost server only with the next bytes. Never fulfilled. */
  async function goOnSending(request: OpenRequest): Promise<never> {
    for (let at = BYTES.length / 3; at < BYTES.length; at += 10_000) {
      await request.send(BYTES.subarray(at, at + 10_000));
      await setTimeout(10);
    }
    return new Promise(() => undefined);
  }

  /** The status of an answer, or that the connection or stream ended without one. */
  async function statusOrCut(answer: Promise<WireResponse>): Promise<number | 'cut'> {
    try {
      return (await answer).status;
    } catch (error) {
      if (/closed|reset/i.test((error as Error).message)) return 'cut';
      throw error;
    }
  }

  async function recordedBytes(): Promise<number> {
    // Without a limit of its own it would wait for five minutes.
    const response = await fetch(new URL('/metrics', proxy.adminUrl), { signal: AbortSignal.timeout(20_000) });
    const text = await response.text();
    return Number(/^rufh_spool_bytes (\S+)$/m.exec(text)?.[1] ?? 0);
  }
});

test('the table of the fronts in the docs is what these tests hold', async () => {
  const squeeze = (text: string): string => text.replaceAll(/ +|(?<=\|)-+(?=\|)/g, ' ').replaceAll(/\| -+ /g, '| - ');
  const page = await readFile('docs/deployment.md', 'utf8');
  expect(squeeze(page)).toContain(squeeze(frontsTable()));
});
