import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from '@jest/globals';
import { exchangeOver } from '../support/client.js';
import { clientDialect, createUpload, progressOf, type ResumableUpload } from '../support/resumable-client.js';
import { storedIdOf } from '../support/stored-id.js';
import { randomBytes, sha256 } from '../support/temporary.js';
import { rounds, seed } from '../support/thoroughness.js';
import { startTestApp, TestProxy } from '../support/test-proxy.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

// Issue 12, done when 5: one changed byte in each chunk and record. The origin never gets a wrong byte, and whoever asks
// for an upload that cannot go on is told so.
const UPLOADS = rounds(30, 300);
const DIALECT = clientDialect('10');
const CONFIG = 'delivery: { wait: 5s, keep_answer: 1h, retry: { attempts: 1 } }\n';

/** What an upload has when its bytes rot. */
const STATES = ['begun', 'in two parts', 'undelivered', 'answered'] as const;
const SIZES = [1, 700, 60_000, 1_100_000];
const VICTIMS = ['chunks', 'record', 'both'] as const;

interface Case {
  readonly name: string;
  readonly upload: ResumableUpload;
  readonly bytes: Buffer;
  readonly state: (typeof STATES)[number];
  readonly victims: (typeof VICTIMS)[number];
}

let proxy: TestProxy | undefined;
afterEach(() => proxy?.close());

test(`${UPLOADS} uploads with a changed byte in every file`, async () => {
  let beforeStart = (): Promise<void> => Promise.resolve();
  proxy = await TestProxy.open({ config: CONFIG }, async (options) => {
    await beforeStart();
    return startTestApp(options);
  });
  const random = numbers(seed);
  const cases: Case[] = [];
  for (let at = 0; at < UPLOADS; at++) cases.push(await prepare(proxy, at));
  const { data } = proxy.app;
  let flipped = 0;
  beforeStart = async () => {
    for (const one of cases) for (const path of await filesOf(data, one)) flipped += await flip(path, random);
  };
  await proxy.restart();
  expect(flipped).toBeGreaterThanOrEqual(UPLOADS);
  const outcomes = new Map<string, number>();
  for (const one of cases) {
    const outcome = await outcomeOf(proxy, one);
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    expectNoWrongByte(proxy, one);
  }
  // Neither a test that damages nothing nor one that damages everything.
  expect(outcomes.get('told') ?? 0).toBeGreaterThan(UPLOADS / 3);
  expect([...outcomes.keys()].filter((outcome) => outcome !== 'told' && outcome !== 'delivered')).toEqual([]);
});

/** The same numbers for the same seed. */
function numbers(start: number): (below: number) => number {
  let state = start >>> 0;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return state % below;
  };
}

const target = (name: string): string => `/files/${name}`;

async function prepare(started: TestProxy, at: number): Promise<Case> {
  const state = STATES[at % STATES.length]!;
  const victims = VICTIMS[Math.floor(at / STATES.length) % VICTIMS.length]!;
  const bytes = randomBytes(SIZES[Math.floor(at / STATES.length) % SIZES.length]!, at + 1);
  const name = `${at}-${state.replaceAll(' ', '-')}-${victims}`;
  let attempts = 0;
  started.answer(target(name), () =>
    state === 'undelivered' && ++attempts === 1 ? { status: 503 } : { status: 201, body: `taken ${name}` },
  );
  const send = (request: WireRequest): Promise<WireResponse> =>
    exchangeOver('HTTP/1.1', started.app.url, {
      ...request,
      headers: [['Host', started.host], ...(request.headers ?? [])],
    });
  const upload = await createUpload(DIALECT, send, { method: 'POST', target: target(name), length: bytes.length });
  const half = Math.floor(bytes.length / 2);
  const isWhole = state === 'undelivered' || state === 'answered';
  if (state === 'begun' || state === 'in two parts')
    await upload.append(bytes.subarray(0, half), { offset: 0, complete: false });
  if (state === 'in two parts')
    await upload.append(bytes.subarray(half, bytes.length - 1), { offset: half, complete: false });
  if (isWhole) await upload.append(bytes, { offset: 0, complete: true });
  return { name, upload, bytes, state, victims };
}

async function filesOf(data: string, { upload, victims }: Case): Promise<string[]> {
  const id = storedIdOf(upload.url);
  const spool = join(data, 'spool', id);
  const chunks = (await readdir(spool).catch(() => [])).map((name) => join(spool, name));
  const records = (await readdir(join(data, 'uploads'))).filter((name) => name.startsWith(id));
  const paths = records.map((name) => join(data, 'uploads', name));
  // The bytes of an answered upload are gone.
  if (victims === 'chunks' && chunks.length > 0) return chunks;
  return victims === 'record' ? paths : [...chunks, ...paths];
}

async function flip(path: string, random: (below: number) => number): Promise<number> {
  const { size } = await stat(path);
  if (size === 0) return 0;
  const file = await open(path, 'r+');
  const at = random(size);
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.of(buffer[0]! ^ (1 << random(8))), 0, 1, at);
  await file.close();
  return 1;
}

/** Continues the upload as its client would; every refusal has to be a sentence. */
async function outcomeOf(started: TestProxy, { upload, bytes, name }: Case): Promise<string> {
  const at = new ResumableAgain(started, upload);
  for (let round = 0; round < 4; round++) {
    const found = await at.send({ method: 'HEAD', target: upload.target });
    if (found.status !== 204) return toldBy(await at.send({ method: 'GET', target: upload.target }), name);
    const { offset = 0 } = progressOf(DIALECT, found);
    const answer = await at.append(bytes.subarray(offset), offset);
    if (answer.status === 201) {
      expect(answer.body.toString()).toBe(`taken ${name}`);
      return 'delivered';
    }
    if (answer.status !== 409) return toldBy(answer, name);
  }
  return `${name} has no end`;
}

function toldBy(response: WireResponse, name: string): string {
  const isProblem = response.header('Content-Type') === 'application/problem+json';
  const { detail = '' } = isProblem ? (JSON.parse(response.body.toString()) as { detail?: string }) : {};
  return response.status >= 400 && /^[A-Z].{20,}\.$/.test(detail) ? 'told' : `${name}: ${response.status} ${detail}`;
}

/** The proxy has another port after its restart. */
class ResumableAgain {
  constructor(
    private readonly started: TestProxy,
    private readonly upload: ResumableUpload,
  ) {}

  send(request: WireRequest): Promise<WireResponse> {
    const headers: WireRequest['headers'] = [
      ['Host', this.started.host],
      ['Upload-Draft-Interop-Version', DIALECT.version ?? ''],
      ...(request.headers ?? []),
    ];
    return exchangeOver('HTTP/1.1', this.started.app.url, { ...request, headers });
  }

  append(body: Buffer, offset: number): Promise<WireResponse> {
    return this.send({
      method: 'PATCH',
      target: this.upload.target,
      headers: [
        ['Upload-Offset', `${offset}`],
        [DIALECT.completeness, '?1'],
        ['Content-Type', DIALECT.appendType ?? 'application/octet-stream'],
        ['Content-Length', `${body.length}`],
      ],
      body,
    });
  }
}

/** A request that the origin got to its end has the right bytes. */
function expectNoWrongByte(started: TestProxy, { name, bytes }: Case): void {
  const whole = started.requestsFor(target(name)).filter(({ ended }) => ended === 'whole');
  expect(whole.map((request) => request.sha256)).toEqual(whole.map(() => sha256(bytes)));
}
