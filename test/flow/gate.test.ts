import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { describe, expect, test } from '@jest/globals';
import { askGate, type Verdict } from '../../src/delivery/gate.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { Gate } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';

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
  return askGate({ gate, upload }, Readable.from([Buffer.from(content)]), signal);
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
      const asked = askGate({ gate, upload: upload as unknown as Upload }, pieces, new AbortController().signal);
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
    { gate: shell('cat >/dev/null'), upload: upload as unknown as Upload },
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
