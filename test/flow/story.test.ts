import { execFile } from 'node:child_process';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { StoryEntry } from '../../src/model/story.js';
import { uploadTag } from '../../src/observe/log.js';
import { untilSpooled } from '../support/disk.js';
import { FlowClient } from '../support/flow-client.js';
import { latch } from '../support/lost-answer.js';
import type { ResumableUpload } from '../support/resumable-client.js';
import { storedIdOf } from '../support/stored-id.js';
import { randomBytes, until } from '../support/temporary.js';
import { startTestApp, type TestApp, TestProxy } from '../support/test-proxy.js';

const BINARY = fileURLToPath(new URL('../../bin/rufh-proxy.js', import.meta.url));
const CONFIG = 'admin: 127.0.0.1:0\ndelivery: { retry: { first_delay: 50ms } }';
const BYTES = randomBytes(60_000);
const { length } = BYTES;
const SECRET = 'Bearer of-the-client';

let app: TestApp;
let proxy: TestProxy;

beforeAll(async () => {
  proxy = await TestProxy.open({ config: CONFIG }, async (options) => (app = await startTestApp(options)));
});

afterAll(async () => {
  await proxy.close();
});

const tagOf = (upload: ResumableUpload): string => uploadTag(storedIdOf(upload.target));

interface Shown {
  readonly phase: string;
  readonly story: readonly StoryEntry[];
}

async function shown(tag: string): Promise<Shown> {
  const path = `/uploads/${tag}`;
  const { body } = await app.operators.respond({ method: 'GET', path, query: new URLSearchParams(), headers: {} });
  return JSON.parse(String(body)) as Shown;
}

function untilTold(tag: string, what: (entry: StoryEntry) => boolean): Promise<Shown> {
  let last: Shown | undefined;
  return until(
    async () => (last = await shown(tag)).story.some(what) && last,
    () => `such an entry in ${JSON.stringify(last?.story, undefined, 1)}`,
  );
}

const isInterrupted = (entry: StoryEntry): boolean => entry.kind === 'request' && entry.interrupted === 'client-left';

function uploads(...line: string[]): Promise<string> {
  const command = [BINARY, 'uploads', ...line, '--admin', app.adminUrl!];
  return new Promise((resolve, reject) => {
    execFile(process.execPath, command, { env: { ...process.env, NODE_OPTIONS: '' } }, (error, output, errors) => {
      if (error) reject(new Error(errors));
      else resolve(output);
    });
  });
}

/** The lines of the story without times and durations, which differ each time. */
function linesOf(output: string): string[] {
  const [, told] = output.split('What happened (UTC, and since the beginning):\n');
  const time = /^ {2}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z +\+[\dms. ]+ {2}/;
  return told!
    .trimEnd()
    .split('\n')
    .map((line) => {
      expect(line).toMatch(time);
      return line.replace(time, '').replace(/\b(\d+ms|\d+\.\ds)\b/g, 'TIME');
    });
}

describe('an upload that was cut, taken over, met two faults of its origin and lost its answer', () => {
  const target = '/story/film.bin?token=secret';
  const client = (): FlowClient => new FlowClient(proxy, 'HTTP/1.1', '10');
  let upload: ResumableUpload;
  let output: string;

  beforeAll(async () => {
    const { opened, open } = latch();
    const requests = (): number => proxy.requestsFor(target).length;
    proxy.answer(target, () => (requests() < 3 ? { status: 503 } : { status: 201, body: '{"id":42}', after: opened }));
    const lines = [['Authorization', SECRET] as const, ['Cookie', `a=${SECRET}`] as const];
    const begun = await client().begin({ target, length, lines });
    ({ upload } = begun);
    const tag = tagOf(upload);
    await begun.request.send(BYTES.subarray(0, 20_000));
    await untilSpooled(app.data, upload.url, 20_000);
    begun.request.leave('reset');
    await untilTold(tag, isInterrupted);
    const stalled = await client().append(upload, { offset: 20_000, complete: true, bytes: 40_000 });
    await stalled.send(BYTES.subarray(20_000, 30_000));
    await untilSpooled(app.data, upload.url, 30_000);
    expect(await client().at(upload.url).offset()).toBe(30_000);
    await stalled.givenUp();
    const last = await client().append(upload, { offset: 30_000, complete: true, bytes: 30_000 });
    await last.send(BYTES.subarray(30_000));
    await until(() => requests() === 3, 'the third attempt');
    last.leave('reset');
    await untilTold(tag, (entry) => isInterrupted(entry) && entry.kind === 'request' && entry.to === length);
    open();
    await untilTold(tag, ({ kind }) => kind === 'answer');
    const again = await client().at(upload.url).append('', { offset: length, complete: true });
    expect([again.status, again.body.toString()]).toEqual([201, '{"id":42}']);
    await untilTold(tag, (entry) => entry.kind === 'request' && entry.status === 201);
    output = await uploads('show', tag);
    if (process.env['SHOW_STORY']) await writeFile(process.env['SHOW_STORY'], output);
  });

  test('is told so that a person understands it', () => {
    const from = 'from 127.0.0.1 (interop 10, HTTP/1.1)';
    const { origin } = proxy;
    const lines = linesOf(output);
    expect(lines.slice(0, 5)).toEqual([
      'Created by 127.0.0.1: POST /story/film.bin?token=, route default, interop 10; 60000 B (58.6 KiB) announced.',
      `POST ${from} to create it, stored 20000 B (19.5 KiB), from 0 to 20000, TIME: the connection of the client broke.`,
      `PATCH ${from} to append, stored 10000 B, from 20000 to 30000, TIME: it was ended because a newer request came.`,
      `HEAD ${from} asked for its state, 30000 B (29.3 KiB) are stored, TIME: answered 204.`,
      expect.stringMatching(
        /^Taken over: a newer request to read the offset has lease \d+, TIME after it asked; the request with lease \d+ can store nothing more\.$/,
      ),
    ]);
    expect(lines.slice(5)).toEqual([
      `PATCH ${from} to append, stored 30000 B (29.3 KiB), from 30000 to 60000, TIME: the connection of the client broke.`,
      `Delivery attempt 1 to ${origin.url}, TIME: sent and answered 503.`,
      'Delivery is tried again in TIME.',
      `Delivery attempt 2 to ${origin.url}, TIME: sent and answered 503.`,
      'Delivery is tried again in TIME.',
      `Delivery attempt 3 to ${origin.url}, TIME: sent and answered 201.`,
      'The answer of the origin is 201 with 9 B; it is kept for the client.',
      `PATCH ${from} to append, nothing new was stored at 60000 B (58.6 KiB), TIME: answered 201.`,
    ]);
  });

  test('is told as JSON, with the same entries', async () => {
    const json = JSON.parse(await uploads('show', tagOf(upload), '--json')) as Shown;
    expect(json.phase).toBe('answered');
    expect(json.story.map(({ kind }) => kind).length).toBe(linesOf(output).length);
  });

  test('leaves no secret in the history', async () => {
    const directory = join(app.data, 'history');
    const files = await Promise.all((await readdir(directory)).map((name) => readFile(join(directory, name), 'utf8')));
    const history = files.join('');
    expect(history).toContain(tagOf(upload));
    const token = upload.target.split('/').at(-1)!;
    for (const secret of [token, storedIdOf(upload.target), SECRET, 'secret', 'Bearer'])
      expect(history).not.toContain(secret);
  });
});

describe('other ends', () => {
  const client = (): FlowClient => new FlowClient(proxy, 'HTTP/2', '10');

  test('an upload that an operator cancelled is told when its record is gone, also after a restart', async () => {
    const upload = await client().place({ target: '/story/cancelled', length });
    const tag = tagOf(upload);
    expect(await uploads('cancel', tag, '--as', 'Ada')).toContain('cancelled');
    const told = async (): Promise<string[]> => linesOf(await uploads('show', tag));
    const expected = [
      expect.stringMatching(/^Created by 127\.0\.0\.1: POST \/story\/cancelled, /),
      expect.stringMatching(/^POST .*\bto create it\b.*: answered 201\.$/),
      'Ada asked the admin API to cancel it: answered 204.',
      'The upload was cancelled, and its bytes were removed.',
    ];
    expect(await told()).toEqual(expected);
    expect(await shown(tag)).toMatchObject({ phase: 'removed' });
    await proxy.restart();
    expect(await told()).toEqual(expected);
  });

  test('an upload with very many requests is told by its beginning and its end', async () => {
    const upload = await client().place({ target: '/story/polled', length });
    for (let asked = 0; asked < 150; asked++) await upload.offset();
    await upload.cancel();
    // The last entry is that of the request that cancelled it.
    const isLast = (entry: StoryEntry): boolean => entry.kind === 'request' && entry.method === 'DELETE';
    const { story } = await untilTold(tagOf(upload), isLast);
    expect(story[20]).toMatchObject({ kind: 'left-out', count: 54 });
    expect(story.length).toBe(101);
  });
});
