import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Origin, OriginRequest } from '../../src/delivery/origin.js';
import type { SyncMode } from '../../src/fs/directory-sync.js';
import { useFileSystem } from '../../src/fs/files.js';
import type { Outcome } from '../../src/model/messages.js';
import { Body } from '../../src/uploads/request-body.js';
import { REQUEST } from '../support/delivery-harness.js';
import { Machine, route, SHORT_ANSWER } from '../support/faulty-machine.js';
import { MemoryDisk, memoryDisks, type Operation } from '../support/memory-disk.js';
import { everyNth } from '../support/thoroughness.js';
import { newId } from '../support/upload-harness.js';

const HOUR = 3_600_000;
const BYTES = Buffer.from('a small one, in one request');
/** A start on the directory of a process that died waits for its lock. */
const SIDE_BY_SIDE = 64;

beforeAll(() => useFileSystem(memoryDisks));
afterAll(() => useFileSystem());

/** Takes every request that is whole; answers when it may, with the number of the request. */
class PatientOrigin implements Origin {
  got = 0;
  readonly isAsked: Promise<void>;
  private tellAsked: () => void = () => undefined;

  constructor(
    private readonly mayAnswer: Promise<void> = Promise.resolve(),
    private readonly body = 'taken',
  ) {
    this.isAsked = new Promise((resolve) => (this.tellAsked = resolve));
  }

  async send({ content }: OriginRequest): ReturnType<Origin['send']> {
    const pieces: Buffer[] = [];
    for await (const piece of content.body ?? []) pieces.push(piece as Buffer);
    expect(Buffer.concat(pieces)).toEqual(BYTES);
    const number = ++this.got;
    this.tellAsked();
    await this.mayAnswer;
    const body = Readable.from(this.body === '' ? [] : [Buffer.from(this.body)]);
    return { status: 201, reason: 'Created', headers: [['X-Number', String(number)]], body, trailers: () => [] };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

type Method = 'POST' | 'PUT';

interface Started {
  readonly id: Promise<string>;
  readonly outcome: Promise<Outcome>;
}

function callOf(
  bytes: Buffer,
  tell: (id: string) => void = () => undefined,
): Parameters<Machine['uploads']['append']>[1] {
  return {
    body: new Body(Readable.from([bytes]), { idleMs: HOUR, onFirstRead: () => undefined }),
    sendInterim: (news) => {
      if (news.kind === 'resumable') tell(news.upload.id);
      return true;
    },
    wantsProgress: () => true,
    credentials: [],
    clientLeft: new AbortController().signal,
  };
}

/** A client that sends all of it with its first request. */
function upload(machine: Machine, method: Method): Started {
  let tell: (id: string) => void = () => undefined;
  const id = new Promise<string>((resolve) => (tell = resolve));
  const intent = { kind: 'create', dialect: 'final', complete: true, appendLimitsApply: false } as const;
  const outcome = machine.uploads.create(
    { ...intent, contentDigests: [], reprDigests: [] },
    route,
    { id: newId(), request: { ...REQUEST, method } },
    callOf(BYTES, tell),
  );
  return { id, outcome: outcome as Promise<Outcome> };
}

/** The same client, which asks what became of it. */
async function ask(machine: Machine, id: string): Promise<string> {
  const intent = { kind: 'append', id, offset: BYTES.length, complete: true } as const;
  const outcome = await machine.uploads.append(
    { ...intent, contentDigests: [], reprDigests: [] },
    callOf(Buffer.alloc(0)),
  );
  return described(outcome as Outcome);
}

async function described(outcome: Outcome): Promise<string> {
  if (outcome.kind === 'undelivered') return outcome.failure.reason;
  if (outcome.kind !== 'answered') return outcome.kind;
  const pieces: Uint8Array[] = [];
  for await (const piece of outcome.answer.body) pieces.push(piece);
  const number = outcome.answer.headers.find(([name]) => name === 'X-Number')?.[1];
  return `${outcome.answer.status} ${number} ${Buffer.concat(pieces).toString()}`;
}

/** The disk of a process that was killed when its origin had been asked, or had answered. */
async function killed(sync: SyncMode, method: Method, when: 'asked' | 'answered') {
  const disk = new MemoryDisk();
  let answer: () => void = () => undefined;
  const answers = new Promise<void>((resolve) => (answer = resolve));
  const origin = new PatientOrigin(when === 'asked' ? answers : undefined);
  const machine = await Machine.boot({ disk, origin, sync });
  const started = upload(machine, method);
  const id = await started.id;
  await origin.isAsked;
  if (when === 'answered') expect(await described(await started.outcome)).toBe('201 1 taken');
  disk.crash('power-cut');
  const copy = disk.copy();
  answer();
  await Promise.allSettled([machine.end(), started.outcome]);
  disk.forget();
  return { disk: copy, id, record: `data/uploads/${id}.log` };
}

/** Where each line ends. */
function endsOf(record: Buffer): number[] {
  const ends: number[] = [];
  for (let at = record.indexOf('\n'); at !== -1; at = record.indexOf('\n', at + 1)) ends.push(at + 1);
  return ends;
}

/** Every byte of the lines behind the one that completes the upload, and some of the room behind them. */
function cutsIn(record: Buffer): number[] {
  const ends = endsOf(record);
  const completed = ends.find((end) => record.subarray(0, end).includes('"phase":"complete"'))!;
  const last = ends.at(-1)!;
  const cuts: number[] = [];
  for (let at = completed; at < record.length; at += at < last + 2 ? everyNth(7) : 1009) cuts.push(at);
  return cuts;
}

interface Restart {
  readonly disk: MemoryDisk;
  readonly id: string;
  readonly sync: SyncMode;
}

/** What the next process tells the client, and how many more requests the origin gets. */
async function restarted({ disk, id, sync }: Restart): Promise<{ readonly told: string; readonly requests: number }> {
  const origin = new PatientOrigin();
  const machine = await Machine.boot({ disk, origin, sync });
  const told = await ask(machine, id);
  await machine.end();
  expect(disk.descriptors).toBe(0);
  return { told, requests: origin.got };
}

describe.each(['group', 'always'] as const)(
  'sync %s: a record that is cut off behind the line that completes its upload',
  (sync) => {
    describe.each(['asked', 'answered'] as const)('after the origin was %s', (when) => {
      test.each([
        ['POST', 0, ['outcome-unknown']],
        ['PUT', 1, ['201 1 taken']],
      ] as const)('%s', async (method, again, told) => {
        const { disk, id, record } = await killed(sync, method, when);
        const whole = disk.contents(record);
        const cuts = cutsIn(whole);
        expect(cuts.length).toBeGreaterThan(200 / everyNth(7));
        const answeredAt = when === 'answered' ? endsOf(whole).at(-1)! : Infinity;
        const wrong: string[] = [];
        const worker = async (): Promise<void> => {
          for (let at = cuts.pop(); at !== undefined; at = cuts.pop()) {
            const cut = disk.copy();
            cut.damage(record, whole.subarray(0, at));
            const got = await restarted({ disk: cut, id, sync });
            cut.forget();
            const isRecorded = at >= answeredAt;
            const isRight = isRecorded
              ? got.requests === 0 && got.told === '201 1 taken'
              : got.requests === again && (told as readonly string[]).includes(got.told);
            if (!isRight) wrong.push(`cut at ${at}: ${got.requests} more, told ${got.told}`);
          }
        };
        await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
        disk.forget();
        expect(wrong).toEqual([]);
      });
    });

    test('a crash within the write of its attempt is told from that, and the request is sent once', async () => {
      const { disk, id, record } = await killed(sync, 'POST', 'asked');
      const whole = disk.contents(record);
      const ends = endsOf(whole);
      const [from, to] = [ends.at(-2)!, ends.at(-1)!];
      expect(whole.subarray(from, to).toString()).toContain('"attempt"');
      const crashes = Array.from({ length: Math.floor((to - from - 1) / 5) }, async (_, index) => {
        const torn = disk.copy();
        torn.damage(record, Buffer.from(whole).fill(' ', from + index * 5, to));
        expect(await restarted({ disk: torn, id, sync })).toEqual({ told: '201 1 taken', requests: 1 });
        torn.forget();
      });
      await Promise.all(crashes);
      expect(crashes.length).toBeGreaterThan(20);
      disk.forget();
    });
  },
);

const SHORT = 'short'.padEnd(SHORT_ANSWER, '.');
const LONG = 'long'.padEnd(SHORT_ANSWER + 1, '.');

describe.each(['EMFILE', 'ENFILE', 'EACCES'])('nothing can be opened from the answer on (%s)', (code) => {
  test.each([
    ['group', 'kill', '', /^201 1 $/],
    ['group', 'power-cut', SHORT, /^201 1 short\.*$/],
    ['always', 'kill', SHORT, /^201 1 short\.*$/],
    ['group', 'kill', LONG, /^201 1 .*could not be kept/s],
  ] as const)('sync %s, %s, %j: the answer is there after the restart', async (sync, how, body, expected) => {
    const disk = new MemoryDisk();
    let answer: () => void = () => undefined;
    const origin = new PatientOrigin(new Promise((resolve) => (answer = resolve)), body);
    const machine = await Machine.boot({ disk, origin, sync });
    const started = upload(machine, 'POST');
    const id = await started.id;
    await origin.isAsked;
    disk.fail(1, true, (operation: Operation) => (operation === 'open' ? code : undefined));
    answer();
    expect((await started.outcome).kind).toBe('answered');
    disk.crash(how);
    disk.heal();
    await machine.end();
    const { told, requests } = await restarted({ disk, id, sync });
    expect(told).toMatch(expected);
    expect(requests).toBe(0);
    disk.forget();
  });
});
