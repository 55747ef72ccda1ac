import { readFileSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { HeaderLine } from '../../src/model/headers.js';
import { uploadTag } from '../../src/observe/log.js';
import { SYSTEM_NAMES } from '../../src/spool/directory-rules.js';
import { untilSpooled } from '../support/disk.js';
import { FlowClient } from '../support/flow-client.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { TestProxy } from '../support/test-proxy.js';
import { storedIdOf } from '../support/stored-id.js';

describe('secrets', () => {
  const SECRET = 's3cret-of-the-client';
  const credentials = { Authorization: `Bearer ${SECRET}`, Cookie: `session=${SECRET}` };
  const version = { 'Upload-Draft-Interop-Version': '8' };

  let origin: TestOrigin;
  let proxy: ProxyProcess;
  beforeEach(async () => {
    origin = await startTestOrigin({ headers: [['Set-Cookie', `session=${SECRET}`]], body: 'stored' });
    proxy = await startProxy({ origin: origin.url, flags: ['--log-level', 'trace'] });
  });
  afterEach(async () => {
    await proxy.stop();
    await origin.close();
  });

  /** Creates an upload with its first bytes and gives its URL. */
  async function create(): Promise<string> {
    const created = await fetch(`${proxy.url}/files?signature=${SECRET}`, {
      method: 'POST',
      headers: { ...version, ...credentials, 'Upload-Complete': '?0' },
      body: 'first',
    });
    expect(created.status).toBe(201);
    return created.headers.get('location')!;
  }

  test('one line a request and one an upload’s end, with the upload’s tag, and no secret in any of them or in the figures', async () => {
    const url = await create();
    const id = url.slice(url.lastIndexOf('/') + 1);
    const cancelled = await create();
    await fetch(url, { method: 'HEAD', headers: { ...version, ...credentials } });
    const completed = await fetch(`${url}?signature=${SECRET}`, {
      method: 'PATCH',
      headers: {
        ...version,
        ...credentials,
        'Content-Type': 'application/partial-upload',
        'Upload-Offset': '5',
        'Upload-Complete': '?1',
      },
      body: 'second',
    });
    expect(await completed.text()).toBe('stored');
    await fetch(cancelled, { method: 'DELETE', headers: { ...version, ...credentials } });
    await fetch(`${proxy.url}/other?signature=${SECRET}`, { headers: credentials });

    const requests = () => proxy.log.filter(({ msg }) => msg === 'request');
    await until(() => requests().length >= 6, 'six lines of requests');
    expect(requests().map(({ method, kind }) => `${String(method)} ${String(kind)}`)).toEqual([
      'POST create',
      'POST create',
      'HEAD retrieve',
      'PATCH append',
      'DELETE cancel',
      'GET pass-through',
    ]);
    const ends = () => proxy.log.filter(({ msg, upload }) => msg === 'upload ended' && upload === uploadTag(id));
    await until(() => ends().length > 0, 'the line of the upload’s end');
    expect(ends()).toHaveLength(1);
    expect(requests()[3]).toMatchObject({
      upload: uploadTag(id),
      status: 200,
      target: `/.uploads/${uploadTag(id)}?signature=`,
    });

    const figures = await (await fetch(`${proxy.adminUrl}/metrics`)).text();
    expect(figures).toContain('rufh_requests_total{kind="append",method="PATCH",status="200"} 1');
    const written = [...proxy.lines, ...proxy.errors, figures].join('\n');
    for (const secret of [SECRET, id, cancelled.slice(cancelled.lastIndexOf('/') + 1)])
      expect(written).not.toContain(secret);
  });
});

describe('uploads', () => {
  // Issue 9, §6: what a request brought, and by what an upload's lines are found.
  let proxy: TestProxy;
  afterEach(() => proxy.close());

  const KEY = 'key-of-the-client';

  async function begin(version: 'HTTP/1.1' | 'HTTP/2', body: string, length = 10): Promise<ResumableUpload> {
    proxy = await TestProxy.open();
    const send = (request: Parameters<TestProxy['send']>[1]) => proxy.send(version, request);
    const headers = [['Idempotency-Key', KEY]] as const;
    return createUpload(clientDialect('8'), send, {
      method: 'POST',
      target: '/files/a.txt?sig=1',
      headers,
      length,
      body,
    });
  }

  const tagOf = ({ target }: ResumableUpload): string => uploadTag(target.split('/').at(-1)!);

  /** The lines of its requests so far, once there are so many. */
  async function requestsOf(upload: ResumableUpload, count: number): Promise<Record<string, unknown>[]> {
    const lines = () => proxy.app.log.filter(({ msg, upload: tag }) => msg === 'request' && tag === tagOf(upload));
    return until(() => lines().length >= count && lines(), `${count} lines`);
  }

  describe.each(['HTTP/1.1', 'HTTP/2'] as const)('over %s', (version) => {
    test('every request says what it brought, and where the upload stood before and after', async () => {
      const upload = await begin(version, 'abc');
      await upload.append('de', { offset: 3, complete: false });
      await upload.append('xx', { offset: 4, complete: false });
      await upload.offset();
      await upload.append('fghij', { offset: 5, complete: true });
      const lines = await requestsOf(upload, 5);
      const moved = lines.map(({ kind, status, bytes, offsetBefore, offsetAfter }) => [
        kind,
        status,
        bytes,
        offsetBefore,
        offsetAfter,
      ]);
      expect(moved).toEqual([
        ['create', 201, 3, 0, 3],
        ['append', expect.any(Number), 2, 3, 5],
        ['append', 409, 0, 5, 5],
        ['retrieve', expect.any(Number), 0, 5, 5],
        ['append', expect.any(Number), 5, 5, 10],
      ]);
    });

    test('every line has what finds the others, and none has the id', async () => {
      const upload = await begin(version, 'abc');
      await upload.append('defghij', { offset: 3, complete: true });
      await until(() => proxy.app.log.some(({ msg }) => msg === 'upload ended'), 'a line about its end');
      await requestsOf(upload, 2);
      const handles = {
        upload: tagOf(upload),
        uploadPath: '/files/a.txt?sig=',
        idempotencyKey: KEY,
        client: '127.0.0.1',
      };
      const lines = proxy.app.log.filter((line) => JSON.stringify(line).includes(tagOf(upload)));
      expect(new Set(lines.map(({ msg }) => msg))).toEqual(new Set(['request', 'delivery attempt', 'upload ended']));
      for (const line of lines) expect(line).toMatchObject(handles);
      expect(JSON.stringify(proxy.app.log)).not.toContain(upload.target.split('/').at(-1));
    });
  });

  const SCANNER = 'read -r word; case $word in allow*) exit 0;; refuse*) exit 1;; keep*) exit 3;; *) exit 9;; esac';
  const GATE = JSON.stringify(['/bin/sh', '-c', SCANNER]);

  /** Lines that tell an upload's story: what was sent, what the gate is to say of it, and which lines follow. */
  const STORIES: readonly [what: string, sent: string, headers: HeaderLine[], lines: Record<string, unknown>[]][] = [
    ['the gate allows', 'allow\n', [], [{ msg: 'gate', verdict: 'allowed' }, { msg: 'upload ended' }]],
    [
      'the gate refuses',
      'refuse\n',
      [],
      [
        { msg: 'gate', verdict: 'refused' },
        { msg: 'upload ended', status: 422 },
      ],
    ],
    [
      'the gate keeps',
      'keep\n',
      [],
      [
        { msg: 'gate', verdict: 'quarantined' },
        { msg: 'upload kept: not delivered', phase: 'undelivered' },
      ],
    ],
    ['the gate gives no verdict on', 'fail\n', [], [{ msg: 'the gate gave no verdict: the upload is not delivered' }]],
    [
      'has another digest than was announced',
      'allow\n',
      [['Repr-Digest', `sha-256=:${Buffer.alloc(32).toString('base64')}:`]],
      [{ msg: 'upload ended: given up', phase: 'invalid', problem: 'digest-mismatch' }],
    ],
  ];

  describe.each(['HTTP/1.1', 'HTTP/2'] as const)('the story over %s', (version) => {
    test.each(STORIES)('of an upload that %s has its handles in every line', async (_what, body, lines, expected) => {
      proxy = await TestProxy.open({ config: `delivery: { wait: 2s, gate: { command: ${GATE} } }` });
      const headers = [['Upload-Complete', '?1'], ['Idempotency-Key', KEY], ...lines] as const;
      await proxy.send(version, { method: 'POST', target: '/files/a.txt?sig=1', headers, body });
      const told = () => proxy.app.log.filter(({ msg }) => expected.some((one) => one['msg'] === msg));
      await until(() => told().length >= expected.length, 'the lines');
      const handles = { uploadPath: '/files/a.txt?sig=', idempotencyKey: KEY, client: '127.0.0.1' };
      expect(told().slice(0, expected.length)).toMatchObject(
        expected.map((line) => ({ ...line, ...handles, upload: told()[0]!['upload'] })),
      );
      expect(told()[0]!['upload']).toMatch(/^[0-9a-f]{10}$/);
    });

    test('of an upload whose bytes are lost says why it is given up', async () => {
      const upload = await begin(version, 'abc');
      const directory = join(proxy.app.data, 'spool', storedIdOf(upload.target));
      for (const name of await readdir(directory)) await rm(join(directory, name));
      await upload.append('defghij', { offset: 3, complete: true });
      const lines = await until(() => {
        const told = proxy.app.log.filter(({ msg }) => String(msg).includes('given up'));
        return told.length === 2 && told;
      }, 'the lines');
      const handles = { uploadPath: '/files/a.txt?sig=', idempotencyKey: KEY, client: '127.0.0.1' };
      const problem = expect.stringMatching(/./);
      expect(lines).toMatchObject([
        {
          level: 'error',
          msg: 'an upload whose bytes are lost is given up',
          ...handles,
          problem,
          upload: tagOf(upload),
        },
        { level: 'info', msg: 'upload ended: given up', ...handles, problem, upload: tagOf(upload) },
      ]);
    });
  });

  test('a request that is cut says what of it stays', async () => {
    proxy = await TestProxy.open();
    const client = new FlowClient(proxy, 'HTTP/1.1', '8');
    const { request, upload } = await client.begin({ target: '/files/a.txt?sig=1', lines: [], length: 1_000_000 });
    await request.send(Buffer.alloc(500_000));
    await untilSpooled(proxy.app.data, upload.url, 500_000);
    request.leave('reset');
    const [cut] = await requestsOf(upload, 1);
    expect(cut).toMatchObject({ kind: 'create', interrupted: 'client-left', offsetBefore: 0 });
    expect(cut).toMatchObject({ bytes: 500_000, offsetAfter: 500_000 });
  });
});

describe('the documented lines', () => {
  const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');

  /** The cells of every row whose first one begins with this. */
  function rows(beginning: string): string[][] {
    const lines = page.split('\n').filter((line) => line.startsWith(`| ${beginning}`));
    return lines.map((line) =>
      line
        .slice(2, -2)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim()),
    );
  }

  test('every reason why an upload is undelivered is explained', () => {
    const model = readFileSync(new URL('../../src/model/upload.ts', import.meta.url), 'utf8');
    const reasons = /readonly reason: ('[^;]+);/
      .exec(model)![1]!
      .split(' | ')
      .map((reason) => reason.replaceAll("'", '`'));
    expect(reasons.length).toBeGreaterThan(3);
    for (const reason of reasons) expect(rows(reason)).toHaveLength(1);
  });

  test('the page names every entry with which a directory still counts as empty', () => {
    const named = rows('empty, or not there')[0]![0]!.match(/`[^`]+`/g)!;
    expect(named.map((name) => name.slice(1, -1))).toEqual(SYSTEM_NAMES);
  });
});
