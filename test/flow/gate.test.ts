import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { askGate, type Verdict } from '../../src/delivery/gate.js';
import { HttpOrigin } from '../../src/delivery/http-origin.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Gate } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import { requestOnce } from '../support/client.js';
import { DeliveryHarness } from '../support/delivery-harness.js';
import { clientDialect, createUpload } from '../support/resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import type { WireRequest } from '../support/wire.js';

describe('gates', () => {
  const origin = new HttpOrigin();
  afterAll(() => origin.close());

  const HEADERS: HeaderLine[] = [
    ['Content-Type', 'text/plain'],
    ['Content-Disposition', 'inline; filename="a ü.txt"'],
  ];

  function ask(
    gate: Gate,
    content: string,
    signal = new AbortController().signal,
    headers: readonly HeaderLine[] = HEADERS,
  ): Promise<Verdict> {
    const request = { method: 'POST', target: '/t?q=1', headers, clientAddress: '192.0.2.1' };
    const upload = { offset: Buffer.byteLength(content), request } as unknown as Upload;
    return askGate({ gate, upload, origin }, Readable.from([Buffer.from(content)]), signal);
  }

  function shell(script: string, timeoutMs = 5000): Gate {
    return { kind: 'command', command: ['/bin/sh', '-c', script], timeoutMs };
  }

  describe('a command', () => {
    test('allows by ending with 0, having seen the bytes and what is known of them', async () => {
      const script = 'test "$(cat)" = hello && test "$UPLOAD_TARGET" = "/t?q=1" && test "$UPLOAD_LENGTH" = 5';
      expect(await ask(shell(script), 'hello')).toEqual({ kind: 'allowed' });
      expect((await ask(shell(script), 'HELLO')).kind).toBe('refused');
    });

    test.each([
      ['echo infected; exit 1', 422, 'infected\n'],
      ["printf 'Status: 415 No\\n\\nwrong type'; exit 1", 415, 'wrong type'],
      ['exit 1', 422, ''],
    ])('%s refuses with %i', async (script, status, body) => {
      const verdict = await ask(shell(script), 'x');
      expect(verdict).toEqual({
        kind: 'refused',
        answer: { status, headers: [['Content-Type', 'text/plain; charset=utf-8']], body: Buffer.from(body) },
      });
    });

    test('gets what is documented in its environment, and nothing of ours', async () => {
      process.env['RUFH_PROXY_TEST_SECRET'] = 'secret';
      const verdict = await ask(shell("/usr/bin/env | sort | sed -n 's/=.*//p'; exit 1"), 'x');
      delete process.env['RUFH_PROXY_TEST_SECRET'];
      const names = (verdict as Extract<Verdict, { kind: 'refused' }>).answer.body.toString().trim().split('\n');
      // The shell adds these three by itself.
      expect(names.filter((name) => !['PWD', 'SHLVL', '_', 'OLDPWD'].includes(name))).toEqual([
        'PATH',
        'UPLOAD_CLIENT',
        'UPLOAD_CONTENT_TYPE',
        'UPLOAD_FILENAME',
        'UPLOAD_LENGTH',
        'UPLOAD_METHOD',
        'UPLOAD_TARGET',
      ]);
    });

    test('gets no control characters, whatever the name of the file', async () => {
      const headers: HeaderLine[] = [
        ['Content-Disposition', "attachment; filename*=UTF-8''a%00b%0A%1Bc.txt"],
        ['Content-Type', 'text/plain; a=\0\x01'],
      ];
      const script = 'printf "%s|%s" "$UPLOAD_FILENAME" "$UPLOAD_CONTENT_TYPE"; exit 1';
      const verdict = await ask(shell(script), 'x', undefined, headers);
      expect((verdict as Extract<Verdict, { kind: 'refused' }>).answer.body.toString()).toBe('abc.txt|text/plain; a=');
    });

    test('quarantines by ending with 3', async () => {
      expect(await ask(shell('echo look at this; exit 3'), 'x')).toEqual({
        kind: 'quarantined',
        problem: 'look at this',
      });
    });

    describe.each([
      [0, 'allowed'],
      [1, 'refused'],
      [3, 'quarantined'],
    ])('that ends with %i', (code, kind) => {
      test.each([
        ['nothing', ''],
        ['one byte', 'head -c 1 >/dev/null; '],
        ['a piece', 'head -c 65536 >/dev/null; '],
      ])('is believed when it has read %s of many pieces', async (_, reading) => {
        const pieces = Readable.from(Array.from({ length: 100 }, () => Buffer.alloc(65_536)));
        const upload = { offset: 6_553_600, request: { method: 'POST', target: '/', headers: [], clientAddress: '' } };
        const gate = shell(`${reading}exit ${code}`);
        const asked = askGate(
          { gate, upload: upload as unknown as Upload, origin },
          pieces,
          new AbortController().signal,
        );
        expect((await asked).kind).toBe(kind);
      });
    });

    test.each([
      ['ends in another way', shell('exit 2'), /ended with 2/],
      ['is killed', shell('kill -9 $$'), /ended with SIGKILL/],
      ['takes too long', shell('exec sleep 60', 50), /no verdict within 50 ms/],
      ['is not there', { kind: 'command', command: ['/no/such'], timeoutMs: 5000 } satisfies Gate, /cannot be run/],
    ])('that %s gives no verdict', async (_, gate, message) => {
      await expect(ask(gate, 'x')).rejects.toThrow(message);
    });
  });

  test('a command that saw only half of the bytes has not allowed them', async () => {
    const broken = Readable.from(
      (function* () {
        yield Buffer.from('half');
        throw new Error('the disk is gone');
      })(),
    );
    const upload = { offset: 8, request: { headers: [], target: '/', method: 'POST', clientAddress: '' } };
    const asked = askGate(
      { gate: shell('cat >/dev/null'), upload: upload as unknown as Upload, origin },
      broken,
      new AbortController().signal,
    );
    await expect(asked).rejects.toThrow('could not be read');
  });

  describe('a service', () => {
    test.each<[number, Record<string, string>, string, Partial<Verdict>]>([
      [200, {}, '', { kind: 'allowed' }],
      [204, {}, '', { kind: 'allowed' }],
      // A length that no 204 has (RFC 9110 §8.6).
      [204, { 'Content-Length': '5' }, '', { kind: 'allowed' }],
      [204, { 'Content-Length': '5', 'X-Upload-Verdict': 'quarantine' }, '', { kind: 'quarantined' }],
      [200, { 'X-Upload-Verdict': 'Quarantine' }, 'macro', { kind: 'quarantined', problem: 'macro' }],
      [
        403,
        { 'Content-Type': 'application/json', 'X-Other': 'x' },
        '{"virus":1}',
        {
          kind: 'refused',
          answer: { status: 403, headers: [['Content-Type', 'application/json']], body: Buffer.from('{"virus":1}') },
        },
      ],
    ])('that answers %i %j decides', async (status, headers, body, expected) => {
      await withService(status, headers, body, async (url, seen) => {
        expect(await ask({ kind: 'http', url, timeoutMs: 5000 }, 'hello')).toMatchObject(expected);
        expect(seen()).toMatchObject({
          body: 'hello',
          'content-length': '5',
          'content-type': 'text/plain',
          'x-upload-method': 'POST',
          'x-upload-target': '/t?q=1',
          'x-upload-filename': 'a%20%C3%BC.txt',
          'x-upload-client': '192.0.2.1',
        });
      });
    });

    test('that fails, or cannot be reached, gives no verdict', async () => {
      await withService(500, {}, '', async (url) => {
        await expect(ask({ kind: 'http', url, timeoutMs: 5000 }, 'x')).rejects.toThrow('the gate answered 500');
      });
      const closed: Gate = { kind: 'http', url: 'http://127.0.0.1:1', timeoutMs: 5000 };
      await expect(ask(closed, 'x')).rejects.toThrow('the gate could not be asked');
    });
  });

  async function withService(
    status: number,
    headers: Record<string, string>,
    body: string,
    run: (url: string, seen: () => Record<string, unknown>) => Promise<void>,
  ): Promise<void> {
    let seen: Record<string, unknown> = {};
    const server = createServer((request, response) => {
      const pieces: Buffer[] = [];
      request.on('data', (piece: Buffer) => pieces.push(piece));
      request.on('end', () => {
        seen = { ...request.headers, body: Buffer.concat(pieces).toString() };
        response.writeHead(status, headers).end(body);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, () => seen);
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }
});

describe('gated deliveries', () => {
  let origin: TestOrigin;
  let app: TestApp | undefined;

  beforeEach(async () => {
    origin = await startTestOrigin({ status: 201, body: 'made' });
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
    const scanner = await startTestOrigin({ status: 500 });
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
    let harness: DeliveryHarness;

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
      await harness.close();
      await directory.remove();
    });

    const says = (script: string): void => writeFileSync(verdict, script);
    const timesAsked = (): number => readFileSync(`${verdict}.log`, 'utf8').split('\n').length - 1;
    const phaseOf = async (id: string) => (await harness.store.get(id))?.phase;

    async function quarantined(): Promise<string> {
      says('echo macro; exit 3');
      harness = await DeliveryHarness.open(origin.url, { rules: { gate } });
      const { id } = await harness.whole({ body: 'picture' });
      const keptBack = { kind: 'undelivered', failure: { reason: 'quarantined', problem: 'macro' } };
      expect(await harness.result(id)).toMatchObject(keptBack);
      expect(await harness.result(id)).toMatchObject(keptBack);
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
        expect(await harness.delivery.redeliver(id)).toBe('begun');
        await until(() => timesAsked() === 2, 'the gate to be asked');
        await until(async () => (await phaseOf(id)) === phase, phase);
        await harness.delivery.stop();
        expect([origin.requests.length, timesAsked(), await phaseOf(id)]).toEqual([sent, 2, phase]);
      },
    );

    test.each(verdicts)('can let it pass a gate that %s, which is not asked then', async (_, script) => {
      const id = await quarantined();
      says(script);
      expect(await harness.delivery.redeliver(id, { skipGate: true })).toBe('begun');
      expect((await origin.waitForRequests(1))[0]!.body.toString()).toBe('picture');
      await until(async () => (await phaseOf(id)) === 'answered', 'the answer');
      expect(timesAsked()).toBe(1);
    });

    test('lets it pass for all attempts of this process, and after a restart the gate is asked again', async () => {
      says('exit 3');
      origin.answerWith({ status: 503 });
      const retry = { firstDelayMs: 1, longestDelayMs: 1, inBackgroundMs: 60_000 };
      // An attempt that the restart cuts off may be repeated.
      harness = await DeliveryHarness.open(origin.url, { rules: { gate, guarantee: 'at_least_once' }, retry });
      const { id } = await harness.whole({ body: 'picture' });
      await harness.result(id);
      expect(await harness.delivery.redeliver(id, { skipGate: true })).toBe('begun');
      await origin.waitForRequests(3);
      expect(timesAsked()).toBe(1);
      await harness.restart();
      const sent = origin.requests.length;
      harness.delivery.start();
      await until(() => timesAsked() === 2, 'the gate to be asked after the restart');
      await until(async () => (await phaseOf(id)) === 'undelivered', 'the gate to keep it back');
      expect(origin.requests.length - sent).toBeLessThanOrEqual(1);
    });

    test('has it asked again also between attempts of an upload that had passed', async () => {
      says('exit 0');
      origin.answerWith({ status: 503 });
      const retry = { firstDelayMs: 60_000, longestDelayMs: 60_000, inBackgroundMs: 600_000 };
      harness = await DeliveryHarness.open(origin.url, { rules: { gate, waitMs: 50 }, retry });
      const { id } = await harness.whole({ body: 'picture' });
      await harness.result(id);
      await until(() => harness.lines.some(({ msg }) => msg === 'delivery attempt'), 'the first attempt to end');
      expect([origin.requests.length, timesAsked()]).toEqual([1, 1]);
      says('exit 3');
      expect(await harness.delivery.redeliver(id)).toBe('begun');
      await until(async () => (await phaseOf(id)) === 'undelivered', 'the gate to keep it back');
      expect([origin.requests.length, timesAsked()]).toEqual([1, 2]);
    });

    test('can let it pass while the gate cannot be asked, or thinks', async () => {
      says(`while ! [ -e ${verdict}.now ]; do sleep 0.05; done; exit 3`);
      harness = await DeliveryHarness.open(origin.url, { rules: { gate } });
      const thinking = await harness.whole({ body: 'one' });
      const first = harness.result(thinking.id);
      await until(() => existsSync(`${verdict}.log`), 'the gate to think');
      expect(await harness.delivery.redeliver(thinking.id, { skipGate: true })).toBe('begun');
      writeFileSync(`${verdict}.now`, '');
      expect(await first).toMatchObject({ kind: 'answered' });
      says('exit 7');
      const failing = await harness.whole({ body: 'two' });
      const second = harness.result(failing.id);
      await until(
        () => harness.lines.some(({ msg }) => String(msg).startsWith('the gate gave no verdict')),
        'the gate to fail',
      );
      expect(await harness.delivery.redeliver(failing.id, { skipGate: true })).toBe('begun');
      expect(await second).toMatchObject({ kind: 'answered' });
      expect(origin.requests.map(({ body }) => body.toString())).toEqual(['one', 'two']);
    });
  });
});
