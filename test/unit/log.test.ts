import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import {
  createLog,
  type LogOptions,
  logRequest,
  logUndelivered,
  logUploadEnd,
  silentLog,
  uploadTag,
  withoutSecrets,
} from '../../src/observe/log.js';
import { temporaryDirectory, type TemporaryDirectory, within } from '../support/temporary.js';

describe('log', () => {
  const id = 'dJ3kQm0pZ8vYw1uX5rTnBa';

  let lines: string[];
  beforeEach(() => {
    lines = [];
  });

  function logTo(options: Partial<LogOptions> = {}) {
    return createLog({ level: 'info', format: 'json', destination: { write: (line) => lines.push(line) }, ...options });
  }
  const objects = () => lines.map((line) => JSON.parse(line) as Record<string, unknown>);

  test('a line is one JSON object with time, level and message', () => {
    logTo().warn({ some: 'thing' }, 'happened');
    expect(lines[0]).toMatch(/^\{.*\}\n$/);
    expect(objects()).toEqual([
      { level: 'warn', time: expect.stringMatching(/^\d{4}-.*Z$/), some: 'thing', msg: 'happened' },
    ]);
  });

  test('lines below the level are left out, an announcement never', () => {
    const log = logTo({ level: 'error' });
    log.info('not this');
    log.announce({ url: 'http://127.0.0.1:1' }, 'listening');
    log.warn('nor this');
    expect(objects()).toMatchObject([{ level: 'info', msg: 'listening', url: 'http://127.0.0.1:1' }]);
  });

  test('even a silent log announces', () => {
    logTo({ level: 'silent' }).announce({ url: 'http://127.0.0.1:1' }, 'listening');
    expect(objects()).toMatchObject([{ msg: 'listening' }]);
  });

  test('the pretty form is for people', () => {
    logTo({ format: 'pretty' }).announce({ url: 'http://127.0.0.1:1' }, 'listening');
    expect(lines.join('')).toMatch(/listening/);
    expect(lines.join('')).toMatch(/"url":"http:\/\/127\.0\.0\.1:1"/);
    expect(lines.join('')).not.toMatch(/^\{/);
  });

  const CONTROLS = Array.from({ length: 0xa0 }, (_, code) => String.fromCharCode(code)).filter((character) =>
    /[\0-\x1f\x7f-\x9f]/.test(character),
  );

  describe.each(['json', 'pretty'] as const)('in the form %s', (format) => {
    test.each(CONTROLS.map((control) => [JSON.stringify(control).slice(1, -1), control]))(
      'the control character %s stays out of every place of a line, which is one line',
      (_, control) => {
        const text = `a${control}b\\n\\"ż\xa0`;
        const err = new Error(text, { cause: new Error(text) });
        logTo({ format }).warn({ target: text, [text]: 1, nested: { list: [text] }, err }, text);
        expect(lines.join('')).toMatch(/^[^\0-\x1f\x7f-\x9f]+\n$/);
        if (format === 'json') expect(objects()[0]).toMatchObject({ target: text, [text]: 1, msg: text });
        else expect(lines.join('')).toMatch(/^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] WARN: a.*ż/);
      },
    );
  });

  test('an error keeps its reason and its stack', () => {
    logTo().error({ err: new Error('outer', { cause: new Error('inner') }) }, 'failed');
    expect(objects()[0]?.['err']).toMatchObject({
      message: 'outer: inner',
      stack: expect.stringContaining('caused by'),
    });
  });

  test('should credentials ever come near the log, they do not get into it', () => {
    const secrets = {
      authorization: 's3cret',
      cookie: 's3cret',
      'set-cookie': 's3cret',
      'proxy-authorization': 's3cret',
    };
    logTo().info({ ...secrets, headers: secrets, request: { headers: secrets } }, 'oops');
    expect(lines.join('')).not.toContain('s3cret');
    expect(lines.join('').match(/\[secret\]/g)).toHaveLength(12);
  });

  test('the silent log can be written to', () => {
    expect(() => {
      silentLog().info('nothing');
    }).not.toThrow();
  });

  test('an upload’s tag is short, always the same and says nothing about the id', () => {
    expect(uploadTag(id)).toMatch(/^[0-9a-f]{10}$/);
    expect(uploadTag(id)).toBe(uploadTag(id));
    expect(uploadTag(id)).not.toBe(uploadTag(`${id}x`));
  });

  describe('a target in the log', () => {
    test.each([
      ['/api/files', '/api/files'],
      ['/api/files?token=abc&x=1&flag', '/api/files?token=&x=&flag'],
      ['/a?b=c?d=e', '/a?b='],
      [`/.uploads/${id}`, `/.uploads/${uploadTag(id)}`],
      [`/.uploads/${id}?sig=abc`, `/.uploads/${uploadTag(id)}?sig=`],
      [`/.uploads/${id}/more`, `/.uploads/${uploadTag(id)}/more`],
      ['/.uploads/', '/.uploads/'],
      ['*', '*'],
    ])('%s is written %s', (target, written) => {
      expect(withoutSecrets(target, target.split('?')[0]!, '/.uploads/')).toBe(written);
    });

    test.each([
      [`/.uploads//${id}`, `/.uploads//${uploadTag(id)}`],
      [`//.uploads/${id}/`, `//.uploads/${uploadTag(id)}/`],
      [`/%2EUploads%2F${id}?x=1`, `/%2EUploads%${uploadTag(`2F${id}`)}?x=`],
      [`/api/.uploads/x?${id}`, `/api/.uploads/x?${uploadTag(id)}`],
      [`/.uploads/x/../${id}`, `/.uploads/${uploadTag('x')}/../${uploadTag(id)}`],
      [`/api/${id}`, `/api/${id}`],
    ])('%s, which names no upload but may have been meant to, is written %s', (target, written) => {
      expect(withoutSecrets(target, target.split('?')[0]!, '/.uploads/')).toBe(written);
    });

    test('that reaches an upload by a detour hides its id too', () => {
      expect(withoutSecrets(`/x/../.uploads/${id}`, `/.uploads/${id}`, '/.uploads/')).toBe(
        `/.uploads/${uploadTag(id)}`,
      );
    });
  });

  describe('one line a request', () => {
    const line = {
      kind: 'append',
      method: 'PATCH',
      target: `/.uploads/${id}`,
      path: `/.uploads/${id}`,
      seconds: 0.0123,
      upload: { id, target: '/files/new?sig=abc', idempotencyKey: 'the-key', client: '198.51.100.7' },
      offsets: { before: 5, after: 12 },
    };

    test('tells what, how it ended and how long it took, with the tag in place of the id', () => {
      logRequest(logTo(), '/.uploads/', {
        ...line,
        status: 204,
        client: '192.0.2.1',
        route: 'files',
        httpVersion: '1.1',
      });
      const upload = uploadTag(id);
      expect(objects()).toEqual([
        {
          level: 'info',
          time: expect.any(String),
          kind: 'append',
          method: 'PATCH',
          target: `/.uploads/${upload}`,
          upload,
          uploadPath: '/files/new?sig=',
          idempotencyKey: 'the-key',
          bytes: 7,
          offsetBefore: 5,
          offsetAfter: 12,
          status: 204,
          client: '192.0.2.1',
          route: 'files',
          httpVersion: '1.1',
          ms: 12,
          msg: 'request',
        },
      ]);
      expect(lines.join('')).not.toContain(id);
    });

    test('is a warning when we or the origin failed', () => {
      logRequest(logTo(), '/.uploads/', { ...line, status: 502 });
      logRequest(logTo(), '/.uploads/', { ...line, interrupted: 'client-left' });
      expect(objects()).toMatchObject([{ level: 'warn' }, { level: 'info', interrupted: 'client-left' }]);
    });
  });

  test.each([
    { fields: { kind: 'append', status: 204, ms: 1.5 } },
    { fields: { target: '/a"b\\c\u0001\u009b\ud800é', client: '', ms: NaN } },
    { fields: { route: undefined, ms: 0 } },
    { fields: {} },
  ])('the line of a request has the form of every other line: $fields', ({ fields }) => {
    const log = logTo({ fields: { worker: 3 } });
    log.request!('info', fields);
    log.info(fields, 'request');
    const [request, other] = lines.map((line) => line.replace(/"time":"[^"]+"/, '"time":""'));
    expect(request).toBe(other);
  });

  test('the line of a request below the level is left out', () => {
    const log = logTo({ level: 'warn' });
    log.request!('info', { ms: 1 });
    log.request!('warn', { ms: 2 });
    expect(objects()).toMatchObject([{ level: 'warn', ms: 2 }]);
  });

  test('one line an upload’s end, a warning when it was not delivered', () => {
    const upload = { id, target: '/files/new?sig=abc', idempotencyKey: 'the-key', client: '192.0.2.1' };
    const end = { upload, route: 'files', dialect: '8', size: 10, attempts: 1, seconds: 1.5 };
    logUploadEnd(logTo(), { ...end, phase: 'answered', status: 201 });
    logUploadEnd(logTo(), { ...end, phase: 'undelivered', problem: 'refused connection' });
    logUndelivered(logTo(), { ...end, phase: 'undelivered', problem: 'refused connection' });
    const common = {
      upload: uploadTag(id),
      uploadPath: '/files/new?sig=',
      idempotencyKey: 'the-key',
      client: '192.0.2.1',
      route: 'files',
      dialect: '8',
      size: 10,
      attempts: 1,
      ms: 1500,
    };
    const undelivered = { level: 'warn', phase: 'undelivered', problem: 'refused connection' };
    expect(objects()).toMatchObject([
      { ...common, level: 'info', phase: 'answered', status: 201, msg: 'upload ended' },
      { ...common, ...undelivered, msg: 'upload ended: never delivered' },
      { ...common, ...undelivered, msg: 'upload kept: not delivered' },
    ]);
    expect(lines.join('')).not.toContain(id);
  });
});

describe('output', () => {
  const ALL_SAID = 'all are said\n';
  const PROGRAM = join(import.meta.dirname, '../support/log-program.ts');

  let child: ChildProcess;
  let disk: TemporaryDirectory;
  beforeEach(async () => {
    disk = await temporaryDirectory();
  });
  afterEach(async () => {
    child.kill('SIGKILL');
    await disk.remove();
  });

  /** The program, with its output in a pipe or in a file. */
  function run(lines: number, output: 'pipe' | number = 'pipe'): ChildProcess {
    child = spawn(process.execPath, ['--import', 'tsx', PROGRAM, `${lines}`], { stdio: ['pipe', output, 'pipe'] });
    // A failure of its own is to be seen.
    child.stderr!.on('data', (said: Buffer) => said.toString() === ALL_SAID || process.stderr.write(said));
    return child;
  }

  /** Tells it to end. Gives its exit code. */
  async function end(program: ChildProcess): Promise<number | null> {
    const exited = once(program, 'exit') as Promise<[number | null]>;
    program.stdin!.end();
    return (await within(exited, 'the program to end'))[0];
  }

  interface Line {
    readonly msg: string;
    readonly number?: number;
  }

  /** One line after the other; fails with the first that is not whole. */
  async function* linesOf(output: Readable): AsyncGenerator<Line> {
    for await (const line of createInterface({ input: output })) yield JSON.parse(line) as Line;
  }

  /** What a program has printed by its end, which is when somebody reads it. */
  async function allOf(program: ChildProcess): Promise<Line[]> {
    const lines: Line[] = [];
    for await (const line of linesOf(program.stdout!)) lines.push(line);
    return lines;
  }

  const numbered = (from: number, to: number): unknown[] =>
    Array.from({ length: to - from }, (_, at) => expect.objectContaining({ msg: 'line', number: from + at }));

  test('a reader that has left does not keep the process from ending', async () => {
    const program = run(0);
    await linesOf(program.stdout!).next();
    program.stdout!.destroy();
    expect(await end(program)).toBe(0);
  });

  test('a reader that stands still does not keep the process from ending', async () => {
    const program = run(1000);
    await once(program.stdout!, 'readable');
    expect(await end(program)).toBe(0);
  });

  test('a reader that is slower than the lines gets all of them, whole and in their order', async () => {
    const program = run(3000);
    const all = allOf(program);
    expect(await end(program)).toBe(0);
    const [first, ...lines] = await all;
    expect([first?.msg, ...lines.slice(-2).map(({ msg }) => msg)]).toEqual(['first', 'ending', 'last']);
    expect(lines.slice(0, -2)).toEqual(numbered(0, 3000));
  });

  test('of more than anybody wants to keep the first are kept, whole', async () => {
    const program = run(20_000);
    // Nobody reads before all are said, or who is quick enough would see them all.
    await once(program.stderr!, 'data');
    const lines: Line[] = [];
    for await (const line of linesOf(program.stdout!)) {
      lines.push(line);
      // The rest of what it kept, and no more.
      if (line.number === 8000) program.stdin!.end();
    }
    expect(lines.length).toBeGreaterThan(8000);
    expect(lines.length).toBeLessThan(10_000);
    expect(lines.at(-1)?.msg).toBe('last');
    expect(lines.slice(1, -2)).toEqual(numbered(0, lines.length - 3));
  });

  test('a file is added to', async () => {
    const path = join(disk.path, 'log');
    writeFileSync(path, 'of before\n');
    const file = openSync(path, 'a');
    const code = await end(run(50, file));
    closeSync(file);
    const [before, first, ...lines] = readFileSync(path, 'utf8').trimEnd().split('\n');
    expect([code, before, (JSON.parse(first!) as Line).msg]).toEqual([0, 'of before', 'first']);
    const parsed = lines.map((line) => JSON.parse(line) as Line);
    expect(parsed.slice(0, -2)).toEqual(numbered(0, 50));
    expect(parsed.at(-1)?.msg).toBe('last');
  });
});
