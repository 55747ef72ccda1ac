import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { connect, type RawClient, requestOnce } from '../support/client.js';
import { latch } from '../support/lost-answer.js';
import { TestNodes } from '../support/nodes.js';
import { appendLines, clientDialect, createUpload, type ResumableUpload } from '../support/resumable-client.js';
import { temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { type OriginAnswer, startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import type { WireRequest, WireResponse } from '../support/wire.js';

const DIALECT = clientDialect('final');
const BYTES = Buffer.from('the whole of it');
/** A client waits for two nodes in turn. */
const PATIENCE_MS = 60_000;

/** Exit 0 to whoever asks; the first one of each target is not told before it may go on. */
const COMMAND = `cat > /dev/null
if mkdir "$0/asked" 2> /dev/null; then until [ -e "$0/go" ]; do sleep 0.05; done; fi`;

const UNKNOWN = [503, expect.stringContaining('may have taken it')];
const MADE = { status: 201, body: 'made' };
const MADE_AGAIN = { status: 201, body: 'made again' };

let directory: TemporaryDirectory;
let origin: TestOrigin;
let busy: TestOrigin;
let scanner: TestOrigin;
let nodes: TestNodes;
/** Something that waits, by the target or the service it is about. */
let gates: Map<string, ReturnType<typeof latch>>;

beforeEach(async () => {
  gates = new Map();
  directory = await temporaryDirectory();
  origin = await startTestOrigin(({ target }) => answerTo(target, requestsOf(target)));
  busy = await startTestOrigin(({ target }) => answerTo(target, requestsOf(target)));
  scanner = await startTestOrigin(async (_, index) => {
    if (index === 0) await heldBy('the scanner');
    return { status: 204 };
  });
  nodes = await TestNodes.start({
    isCuttable: true,
    origin: origin.url,
    bytes: 'shared',
    nodes: 2,
    program: 'short-claims',
    config: `routes:
  - match: { path: /by-command }
    delivery: { gate: { command: [sh, -c, ${JSON.stringify(COMMAND)}, ${directory.path}], timeout: 60s } }
  - match: { path: /by-http }
    delivery: { gate: { http: '${scanner.url}/scan', timeout: 60s } }
  - match: { path: '/turn/**' }
    origin: ${busy.url}
    delivery: { concurrency: 1 }
  - match: { path: '/**' }`,
  });
});

afterEach(async () => {
  for (const { open } of gates.values()) open();
  await nodes.stop();
  for (const server of [origin, busy, scanner]) await server.close();
  await directory.remove();
});

function heldBy(what: string): Promise<void> {
  return gateOf(what).opened;
}

function gateOf(what: string): ReturnType<typeof latch> {
  if (!gates.has(what)) gates.set(what, latch());
  return gates.get(what)!;
}

function requestsOf(target: string): number {
  return [...origin.requests, ...busy.requests].filter((request) => request.target === target).length;
}

async function answerTo(target: string, count: number): Promise<OriginAnswer> {
  if (target === '/pause') return count === 1 ? LATER : MADE;
  if (target === '/asked-again' && count > 1) return MADE_AGAIN;
  if (HELD.has(target)) await heldBy(target);
  return MADE;
}

/** Far enough away that the node stands still before. */
const LATER = { status: 503, headers: [['Retry-After', '4']], body: 'later' } as const;
const HELD: ReadonlySet<string> = new Set(['/turn/first', '/origin-works', '/answer-in-hand', '/asked-again']);

/** A client whose upload came whole to the first node, and that still waits for its answer there. */
class Waiting {
  private constructor(
    readonly target: string,
    private readonly upload: ResumableUpload,
    private readonly client: RawClient,
  ) {}

  static async at(target: string): Promise<Waiting> {
    const url = nodes.urlOf(0);
    const send = (request: WireRequest): Promise<WireResponse> => requestOnce(url, request);
    const upload = await createUpload(DIALECT, send, { method: 'POST', target });
    const client = await connect(url, { deadlineMs: PATIENCE_MS });
    const headers = appendLines(DIALECT, { offset: 0, complete: true });
    await client.sendRequest({ method: 'PATCH', target: upload.target, headers, body: BYTES });
    return new Waiting(target, upload, client);
  }

  /** Its answer from the node that it asked first. */
  async answer(): Promise<Said> {
    return said(await this.client.readFinal());
  }

  /** The end once more, at the other node. */
  async askElsewhere(): Promise<Said> {
    const client = await connect(nodes.urlOf(1), { deadlineMs: PATIENCE_MS });
    const headers = appendLines(DIALECT, { offset: BYTES.length - 1, complete: true });
    const request = { method: 'PATCH', target: this.upload.target, headers, body: BYTES.subarray(-1) };
    return said(await client.request(request).finally(() => client.destroy()));
  }

  /** As the other node shows it. */
  async isAfterOneAttempt(phase: 'complete' | 'delivering'): Promise<boolean> {
    const { body } = await requestOnce(nodes.urlOf(1), { method: 'GET', target: `${this.upload.target}/status` });
    const shown = JSON.parse(body.toString()) as { phase: string; attempts: number };
    return shown.phase === phase && shown.attempts === 1;
  }
}

type Said = readonly [status: number, text: string];

function said({ status, body }: WireResponse): Said {
  const text = body.toString();
  return [status, text.startsWith('{') ? (JSON.parse(text) as { detail: string }).detail : text];
}

async function queued(): Promise<number> {
  const text = await (await fetch(`${nodes.node(0).adminUrl}/metrics`)).text();
  return Number(/^rufh_queued_deliveries (\d+)$/m.exec(text)![1]);
}

const isRequested = ({ target }: Waiting): Promise<unknown> =>
  until(() => requestsOf(target) > 0, `the request for ${target}`);

interface Scene {
  /** What holds when the node is stopped. */
  readonly begun: (waiting: Waiting) => Promise<unknown>;
  /** Whether the other node gives an answer meanwhile, or says that nobody knows. */
  readonly elsewhere: 'made' | 'unknown';
  /** How many requests the origin has had of it in the end. */
  readonly requests: number;
}

const SCENES: Record<string, Scene> = {
  '/turn/first': { begun: isRequested, elsewhere: 'unknown', requests: 1 },
  // Whole, and not claimed.
  '/turn/second': {
    begun: () => until(async () => (await queued()) === 1, 'a delivery that waits for its turn'),
    elsewhere: 'made',
    requests: 1,
  },
  // Claimed, before the attempt.
  '/by-command': {
    begun: () => until(() => existsSync(join(directory.path, 'asked')), 'the command to run'),
    elsewhere: 'made',
    requests: 1,
  },
  '/by-http': {
    begun: () => until(() => scanner.requests.length > 0, 'the scanner to be asked'),
    elsewhere: 'made',
    requests: 1,
  },
  '/origin-works': { begun: isRequested, elsewhere: 'unknown', requests: 1 },
  '/answer-in-hand': { begun: isRequested, elsewhere: 'unknown', requests: 1 },
  '/asked-again': { begun: isRequested, elsewhere: 'unknown', requests: 2 },
  // The first one was refused.
  '/pause': {
    begun: (waiting) => until(() => waiting.isAfterOneAttempt('complete'), 'the pause'),
    elsewhere: 'made',
    requests: 2,
  },
};

const TARGETS = Object.keys(SCENES);

/** One value for each scene. */
function table<T>(valueOf: (target: string) => T): Record<string, T> {
  return Object.fromEntries(TARGETS.map((target) => [target, valueOf(target)]));
}

// Issue 8: nodes stopped in each phase of a delivery.
test('a node that stands still within deliveries until another one has acted sends nothing twice, and what it learned counts', async () => {
  const waiting: Waiting[] = [];
  for (const target of TARGETS) {
    const one = await Waiting.at(target);
    waiting.push(one);
    await SCENES[target]!.begun(one);
  }
  const askAll = async (ask: (one: Waiting) => Promise<Said>): Promise<Record<string, Said>> =>
    Object.fromEntries(await Promise.all(waiting.map(async (one) => [one.target, await ask(one)] as const)));

  const { pid } = nodes.node(0);
  process.kill(pid, 'SIGSTOP');
  gateOf('/answer-in-hand').open();
  expect(await askAll((one) => one.askElsewhere())).toEqual(
    table((target) => (SCENES[target]!.elsewhere === 'made' ? [201, 'made'] : UNKNOWN)),
  );
  const at = (target: string): Waiting => waiting.find((one) => one.target === target)!;
  expect(await at('/asked-again').askElsewhere()).toEqual([201, 'made again']);

  process.kill(pid, 'SIGCONT');
  await until(() => at('/origin-works').isAfterOneAttempt('delivering'), 'the claim to be taken back');
  await writeFile(join(directory.path, 'go'), '');
  for (const { open } of gates.values()) open();
  const answers = table((target) => [201, target === '/asked-again' ? 'made again' : 'made']);
  expect(await askAll((one) => one.answer())).toEqual(answers);
  expect(await askAll((one) => one.askElsewhere())).toEqual(answers);
  expect(table(requestsOf)).toEqual(table((target) => SCENES[target]!.requests));
  // What is behind the gate is asked for by each node.
  expect(scanner.requests).toHaveLength(2);
}, 120_000);
