import { afterEach, describe, expect, test } from '@jest/globals';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { HeaderLine } from '../../src/model/headers.js';
import { uploadTag } from '../../src/observe/log.js';
import { clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { untilSpooled } from '../support/spooled.js';
import { Stage } from '../support/stage.js';
import { StageClient } from '../support/stage-client.js';
import { until } from '../support/temporary.js';

// Issue 9, §6: what a request brought, and by what an upload's lines are found.
let stage: Stage;
afterEach(() => stage.close());

const KEY = 'key-of-the-client';

async function begin(version: 'HTTP/1.1' | 'HTTP/2', body: string, length = 10): Promise<ResumableUpload> {
  stage = await Stage.open();
  const send = (request: Parameters<Stage['send']>[1]) => stage.send(version, request);
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
  const lines = () => stage.app.log.filter(({ msg, upload: tag }) => msg === 'request' && tag === tagOf(upload));
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
    await until(() => stage.app.log.some(({ msg }) => msg === 'upload ended'), 'a line about its end');
    await requestsOf(upload, 2);
    const handles = {
      upload: tagOf(upload),
      uploadPath: '/files/a.txt?sig=',
      idempotencyKey: KEY,
      client: '127.0.0.1',
    };
    const lines = stage.app.log.filter((line) => JSON.stringify(line).includes(tagOf(upload)));
    expect(new Set(lines.map(({ msg }) => msg))).toEqual(new Set(['request', 'delivery attempt', 'upload ended']));
    for (const line of lines) expect(line).toMatchObject(handles);
    expect(JSON.stringify(stage.app.log)).not.toContain(upload.target.split('/').at(-1));
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
    stage = await Stage.open({ config: `delivery: { wait: 2s, gate: { command: ${GATE} } }` });
    const headers = [['Upload-Complete', '?1'], ['Idempotency-Key', KEY], ...lines] as const;
    await stage.send(version, { method: 'POST', target: '/files/a.txt?sig=1', headers, body });
    const told = () => stage.app.log.filter(({ msg }) => expected.some((one) => one['msg'] === msg));
    await until(() => told().length >= expected.length, 'the lines');
    const handles = { uploadPath: '/files/a.txt?sig=', idempotencyKey: KEY, client: '127.0.0.1' };
    expect(told().slice(0, expected.length)).toMatchObject(
      expected.map((line) => ({ ...line, ...handles, upload: told()[0]!['upload'] })),
    );
    expect(told()[0]!['upload']).toMatch(/^[0-9a-f]{10}$/);
  });

  test('of an upload whose bytes are lost says why it is given up', async () => {
    const upload = await begin(version, 'abc');
    const directory = join(stage.app.data, 'spool', upload.target.split('/').at(-1)!);
    for (const name of await readdir(directory)) await rm(join(directory, name));
    await upload.append('defghij', { offset: 3, complete: true });
    const lines = await until(() => {
      const told = stage.app.log.filter(({ msg }) => String(msg).includes('given up'));
      return told.length === 2 && told;
    }, 'the lines');
    const handles = { uploadPath: '/files/a.txt?sig=', idempotencyKey: KEY, client: '127.0.0.1' };
    const problem = expect.stringMatching(/./);
    expect(lines).toMatchObject([
      { level: 'error', msg: 'an upload whose bytes are lost is given up', ...handles, problem, upload: tagOf(upload) },
      { level: 'info', msg: 'upload ended: given up', ...handles, problem, upload: tagOf(upload) },
    ]);
  });
});

test('a request that is cut says what of it stays', async () => {
  stage = await Stage.open();
  const client = new StageClient(stage, 'HTTP/1.1', '8');
  const { request, upload } = await client.begin({ target: '/files/a.txt?sig=1', lines: [], length: 1_000_000 });
  await request.send(Buffer.alloc(500_000));
  await untilSpooled(stage.app.data, upload.url, 500_000);
  request.leave('reset');
  const [cut] = await requestsOf(upload, 1);
  expect(cut).toMatchObject({ kind: 'create', interrupted: 'client-left', offsetBefore: 0 });
  expect(cut).toMatchObject({ bytes: 500_000, offsetAfter: 500_000 });
});
