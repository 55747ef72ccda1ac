import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { DrainApi, ReloadApi } from '../../src/admin/admin.js';
import type { Status } from '../../src/admin/status.js';
import { Fault } from '../../src/model/fault.js';
import type { StoryEvent } from '../../src/model/story.js';
import { uploadTag } from '../../src/observe/log.js';
import type { KeyRotation } from '../../src/uploads/key-rotation.js';
import { answer, attempt } from '../contract/sample-upload.js';
import { FakeAdmin } from '../support/fake-admin.js';
import { startTestApp, type TestApp } from '../support/test-proxy.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';

interface Reply {
  readonly $ref?: string;
  readonly description?: string;
  readonly content?: Readonly<Record<string, { readonly schema: object }>>;
}

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly parameters: readonly {
    readonly name: string;
    readonly in: string;
    readonly schema: Readonly<Record<string, unknown>>;
  }[];
  readonly responses: Readonly<Record<string, Reply>>;
}

interface OpenApi {
  readonly openapi: string;
  readonly info: { readonly version: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly responses: Readonly<Record<string, Reply>> };
}

async function documentOf(url: string): Promise<OpenApi> {
  return (await (await fetch(`${url}/openapi.json`)).json()) as OpenApi;
}

/** Checks responses of an admin listener against its document. Properties that it does not name are mistakes here. */
class Contract {
  private readonly ajv = new Ajv2020({
    strict: true,
    strictRequired: false,
    allErrors: true,
    formats: { 'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/ },
    keywords: ['openapi', 'info', 'security', 'tags', 'paths', 'components'],
  });

  private readonly validators = new Map<string, ReturnType<Ajv2020['compile']>>();

  constructor(readonly document: OpenApi) {
    this.ajv.addSchema(closed(document) as object, 'document');
  }

  get operations(): (Operation & { readonly method: string; readonly path: string })[] {
    return Object.entries(this.document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ ...operation, path, method: method.toUpperCase() })),
    );
  }

  operation(id: string): Operation & { readonly method: string; readonly path: string } {
    return this.operations.find(({ operationId }) => operationId === id)!;
  }

  /** The problems of a response: none if it is as the document says. */
  async mistakes(id: string, response: Response): Promise<unknown> {
    const { path, method, responses } = this.operation(id);
    const status = String(response.status);
    const documented = responses[status];
    if (!documented) return `the document has no ${status}`;
    const place = documented.$ref ?? `#/paths/${pointer(path)}/${method.toLowerCase()}/responses/${status}`;
    const shared = documented.$ref && this.document.components.responses[documented.$ref.split('/').at(-1)!];
    const content = (shared ? shared : documented).content;
    const text = await response.text();
    if (!content) return text === '' ? undefined : 'the document has no body';
    const [type] = Object.keys(content);
    const [sent] = (response.headers.get('content-type') ?? '').split(';');
    if (sent !== type) return `the type is ${sent}, not ${type}`;
    if (type === 'text/plain') return text.length > 0 ? undefined : 'the text is empty';
    const schema = `document${place}/content/${pointer(type!)}/schema`;
    const validate = this.validators.get(schema) ?? this.ajv.compile({ $ref: schema });
    this.validators.set(schema, validate);
    return validate(JSON.parse(text)) ? undefined : validate.errors;
  }
}

function pointer(segment: string): string {
  return encodeURIComponent(segment.replaceAll('~', '~0').replaceAll('/', '~1'));
}

function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed);
  if (typeof value !== 'object' || value === null) return value;
  const inside = Object.fromEntries(Object.entries(value).map(([key, each]) => [key, closed(each)]));
  return 'properties' in value && 'type' in value ? { ...inside, additionalProperties: false } : inside;
}

/** One entry of each kind, with all that it can have. */
const STORY: readonly StoryEvent[] = [
  { kind: 'created', route: 'default', dialect: '10', method: 'POST', target: '/x', client: '::1', length: 5 },
  { kind: 'request', action: 'append', method: 'PATCH', client: '::1', http: '1.1', ms: 3, interrupted: 'idle' },
  { kind: 'request', action: 'create', method: 'POST', client: '::1', dialect: '10', http: '2.0', ms: 3, status: 201 },
  { kind: 'request', action: 'append', method: 'PATCH', client: '::1', http: '1.1', ms: 3, from: 0, to: 5 },
  { kind: 'takeover', lease: 2, from: 1, purpose: 'to-read', waitedMs: 3 },
  { kind: 'lease-ended', lease: 2, reason: 'lost' },
  { kind: 'attempt', number: 1, origin: 'http://api', ms: 3, reached: 'answered', status: 503, problem: 'busy' },
  { kind: 'retry', afterMs: 3 },
  { kind: 'undelivered', reason: 'refused', status: 503, problem: 'busy' },
  { kind: 'answer', by: 'gate', status: 403, bytes: 3 },
  { kind: 'end', phase: 'expired', problem: 'busy' },
  { kind: 'removed' },
  { kind: 'admin', action: 'redeliver', operator: 'Ada', pastGate: true, status: 202 },
  { kind: 'left-out', count: 3 },
];

const STATUS: Status = {
  version: '1.2.3',
  nodeVersion: 'v22.0.0',
  node: 'a',
  startedAt: '2026-12-01T00:00:00.000Z',
  uptimeSeconds: 5,
  draining: false,
  configAppliedAt: '2026-12-01T00:00:00.000Z',
  uploads: { receiving: 1 },
  spool: { storedBytes: 1, reservedBytes: 2, freeBytes: 3, freeFiles: 4 },
  origins: [{ origin: 'http://a:1', breaker: 'open', active: 0, queued: 1 }],
  certificates: [{ listener: 'https://b', expiresAt: '2027-12-01T00:00:00.000Z' }],
  nodes: [{ name: 'a', url: 'http://c', silentMs: 1, leaving: false }],
  workers: [{ number: 1, listening: true }],
};

const FAILURE = new Fault('STORE_UNAVAILABLE', 'Redis is away', true);

describe('every operation answers as the document says', () => {
  let admin: FakeAdmin;
  let contract: Contract;
  let drained: () => Promise<object>;
  let reloaded: Awaited<ReturnType<ReloadApi>>;
  let step: () => Promise<object>;
  let ready: string | undefined;

  beforeEach(async () => {
    drained = () => Promise.resolve({ draining: false });
    reloaded = {
      kind: 'applied',
      changed: ['limits'],
      warnings: [{ problem: 'doubtful', setting: 'limits', line: 2 }],
    };
    step = () => Promise.resolve({});
    ready = undefined;
    const drain: DrainApi = { begin: () => drained(), end: () => drained(), state: () => drained() };
    const keys = { addKey: () => step(), resealPage: () => step(), dropOlderKeys: () => step() };
    admin = await FakeAdmin.start({
      version: '1.2.3',
      checks: [{ name: 'store', check: () => Promise.resolve(ready) }],
      drain: () => (admin.isOpen ? drain : undefined),
      keys: () => (admin.isOpen ? (keys as unknown as KeyRotation) : undefined),
      status: () => (admin.isOpen ? () => Promise.resolve(STATUS) : undefined),
      reload: () => (admin.isOpen ? () => Promise.resolve(reloaded) : undefined),
    });
    contract = new Contract(await documentOf(admin.listener.url));
  });
  afterEach(() => admin.listener.close());

  interface Asked {
    readonly tag?: string;
    readonly query?: string;
  }

  type Arrange = () => unknown;

  const tagOf = (over: Parameters<FakeAdmin['upload']>[0] = {}): Asked => ({ tag: uploadTag(admin.upload(over).id) });
  const starting: Arrange = () => void (admin.isOpen = false);
  const damaged: Arrange = () => {
    admin.setAside = [{ id: 'x'.repeat(32), state: 'damaged', reason: 'a checksum is wrong', since: 0 }];
    return { tag: uploadTag('x'.repeat(32)) };
  };
  const removed: Arrange = () => {
    admin.stories = new Map([['0123456789', STORY.map((event) => ({ at: 5, ...event }))]]);
    return { tag: '0123456789' };
  };
  const elsewhere: Arrange = () => {
    admin.node = 'b';
    return tagOf({ node: 'a' });
  };
  const stepIs =
    (result: object): Arrange =>
    () =>
      void (step = () => Promise.resolve(result));
  const stepFails: Arrange = () => void (step = () => Promise.reject(FAILURE));
  const drainIs =
    (state: object): Arrange =>
    () =>
      void (drained = () => Promise.resolve(state));
  const drainFails: Arrange = () => void (drained = () => Promise.reject(FAILURE));
  const moving = { draining: true, move: { moved: 1, bytes: 5, left: 2, isDone: false, problem: 'no other node' } };
  const unread: Arrange = () => {
    admin.fault = FAILURE;
    return { tag: '0123456789' };
  };
  const unknownTag: Arrange = () => ({ tag: '0123456789' });

  const delivered: Arrange = () =>
    tagOf({
      phase: 'answered',
      length: 5,
      attempts: [attempt(1), attempt(2, { reached: 'answered', status: 201, endedAt: 5 })],
      attemptCount: 2,
      answer: answer(7),
    });
  const undelivered: Arrange = () =>
    tagOf({
      phase: 'undelivered',
      undelivered: { reason: 'refused', status: 503, problem: 'busy' },
      attempts: [attempt(1, { problem: 'refused' })],
      dueAt: 5,
    });

  const CASES: readonly [operation: string, status: number, what: string, arrange: Arrange][] = [
    ['getHealth', 200, 'alive', () => undefined],
    ['getReadiness', 200, 'ready', () => undefined],
    ['getReadiness', 503, 'not ready', () => void (ready = 'the disk is full')],
    ['getMetrics', 200, 'metrics', () => undefined],
    ['getStatus', 200, 'all that there can be', () => undefined],
    ['getStatus', 503, 'starting', starting],
    ['getDocument', 200, 'itself', () => undefined],
    ['listUploads', 200, 'nothing', () => undefined],
    ['listUploads', 200, 'a page of many', () => (tagOf(), delivered(), undelivered(), { query: '?limit=1' })],
    ['listUploads', 200, 'every phase', () => (tagOf(), delivered(), void undelivered())],
    ['listUploads', 200, 'records that cannot be read', () => void damaged()],
    ['listUploads', 400, 'a limit of none', () => ({ query: '?limit=0' })],
    ['listUploads', 503, 'starting', starting],
    ['listUploads', 503, 'no store', unread],
    ['getUpload', 200, 'receiving', () => tagOf()],
    ['getUpload', 200, 'answered', delivered],
    ['getUpload', 200, 'undelivered', undelivered],
    ['getUpload', 200, 'damaged', damaged],
    ['getUpload', 200, 'removed', removed],
    ['getUpload', 404, 'unknown', unknownTag],
    ['getUpload', 409, 'two of one tag', () => (tagOf({ id: 'z' }), tagOf({ id: 'z' }))],
    ['getUpload', 503, 'no store', unread],
    ['cancelUpload', 204, 'cancelled', () => tagOf()],
    ['cancelUpload', 400, 'an unknown parameter', () => ({ ...tagOf(), query: '?force=true' })],
    ['cancelUpload', 404, 'unknown', unknownTag],
    ['cancelUpload', 409, 'on another node', elsewhere],
    ['cancelUpload', 409, 'damaged', damaged],
    [
      'cancelUpload',
      410,
      'ended',
      () => {
        admin.outcome = { kind: 'refused', refusal: { reason: 'gone', detail: 'over' } };
        return tagOf();
      },
    ],
    ['cancelUpload', 503, 'no store', unread],
    ['redeliverUpload', 202, 'begun', () => ({ ...tagOf(), query: '?operator=Ada&past_gate=true' })],
    ['redeliverUpload', 400, 'past the gate without a name', () => ({ ...tagOf(), query: '?past_gate=true' })],
    ['redeliverUpload', 404, 'unknown', unknownTag],
    ['redeliverUpload', 409, 'incomplete', () => ((admin.redelivery = 'incomplete'), tagOf())],
    ['redeliverUpload', 503, 'stopping', () => ((admin.redelivery = 'stopping'), tagOf())],
    ['getDrain', 200, 'not draining', drainIs({ draining: false })],
    ['getDrain', 200, 'moving', drainIs(moving)],
    ['getDrain', 503, 'starting', starting],
    ['beginDrain', 202, 'begun', drainIs({ draining: true })],
    ['beginDrain', 202, 'moving', () => (drainIs(moving)(), { query: '?move=true' })],
    ['beginDrain', 400, 'a mistyped parameter', () => ({ query: '?mvoe=true' })],
    ['beginDrain', 400, 'a value that is none', () => ({ query: '?move=yes' })],
    ['beginDrain', 503, 'no other node', drainFails],
    ['endDrain', 200, 'ended', drainIs({ draining: false })],
    ['endDrain', 503, 'no other node', drainFails],
    ['reload', 200, 'applied', () => undefined],
    [
      'reload',
      422,
      'refused',
      () => void (reloaded = { kind: 'refused', errors: [{ problem: 'no such setting', setting: 'x', column: 3 }] }),
    ],
    ['reload', 500, 'failed', () => void (reloaded = { kind: 'failed', problem: 'no certificate' })],
    ['reload', 503, 'starting', starting],
    ['addKey', 201, 'added', stepIs({ key: 'k1', isNew: true })],
    ['addKey', 503, 'failed', stepFails],
    ['resealPage', 200, 'a page', stepIs({ resealed: 2, unreadable: 0, next: 'b' })],
    ['resealPage', 200, 'the last page', stepIs({ resealed: 0, unreadable: 1 })],
    ['resealPage', 400, 'an unknown parameter', () => ({ query: '?from=b' })],
    ['resealPage', 503, 'failed', stepFails],
    ['dropOlderKeys', 200, 'dropped', stepIs({ kind: 'dropped' })],
    ['dropOlderKeys', 200, 'to wait', stepIs({ kind: 'wait', ms: 5 })],
    ['dropOlderKeys', 409, 'in use', stepIs({ kind: 'in-use', uploads: 3 })],
    ['dropOlderKeys', 503, 'failed', stepFails],
  ];

  async function ask(
    id: string,
    { tag = '0123456789', query = '' }: Asked = {},
    init?: RequestInit,
  ): Promise<Response> {
    const { method, path } = contract.operation(id);
    return fetch(`${admin.listener.url}${path.replace('{tag}', tag)}${query}`, { method, ...init });
  }

  test.each(CASES)('%s: %i, %s', async (id, status, _, arrange) => {
    const asked = (arrange() ?? {}) as Asked;
    const response = await ask(id, asked);
    expect(response.status).toBe(status);
    expect(await contract.mistakes(id, response)).toBeUndefined();
    const again = await ask(id, asked, contract.operation(id).method === 'GET' ? { method: 'HEAD' } : {});
    expect([again.status, again.headers.get('content-type')]).toEqual([status, response.headers.get('content-type')]);
  });

  test('every response that the document names is among them', () => {
    const COMMON = ['401', '403', '500'];
    const named = contract.operations.flatMap(({ operationId, responses }) =>
      Object.keys(responses)
        .filter((status) => !COMMON.includes(status))
        .map((status) => `${operationId} ${status}`),
    );
    const asked = new Set(CASES.map(([id, status]) => `${id} ${status}`));
    expect(named.length).toBeGreaterThan(30);
    expect(named.filter((each) => !asked.has(each))).toEqual([]);
  });

  test('a failure is a 500 as the document says', async () => {
    admin.fault = new Error('a bug');
    const response = await ask('listUploads');
    expect([response.status, await contract.mistakes('listUploads', response)]).toEqual([500, undefined]);
  });

  test('a web page and a client without the token are refused by every operation as it says', async () => {
    await admin.listener.close();
    admin = await FakeAdmin.start({ token: 'a-token-of-many-letters' });
    for (const { operationId } of contract.operations) {
      const page = await ask(operationId, {}, { headers: { Origin: 'https://evil.example' } });
      expect([operationId, page.status, await contract.mistakes(operationId, page)]).toEqual([
        operationId,
        403,
        undefined,
      ]);
      if (operationId === 'getHealth' || operationId === 'getReadiness') continue;
      const stranger = await ask(operationId);
      expect([operationId, stranger.status, await contract.mistakes(operationId, stranger)]).toEqual([
        operationId,
        401,
        undefined,
      ]);
    }
  });

  test('the methods of a path are those that the document has for it', async () => {
    for (const [path, methods] of Object.entries(contract.document.paths)) {
      const allowed = Object.keys(methods).flatMap((method) =>
        method === 'get' ? ['GET', 'HEAD'] : method.toUpperCase(),
      );
      const response = await fetch(admin.listener.url + path.replace('{tag}', '0123456789'), { method: 'PUT' });
      expect([path, response.status, response.headers.get('allow')?.split(', ').sort()]).toEqual([
        path,
        405,
        allowed.sort(),
      ]);
    }
  });

  test('a value of a parameter is accepted by the operation exactly if its schema accepts it', async () => {
    const values = ['', '0', '1', '1000', '1001', 'true', 'false', 'receiving', 'x', '17.0123456789', '17.'];
    const ajv = new Ajv2020({ coerceTypes: true });
    let compared = 0;
    for (const { operationId, parameters } of contract.operations)
      for (const { name, schema } of parameters.filter((parameter) => parameter.in === 'query'))
        for (const value of values) {
          const query = new URLSearchParams(
            name === 'past_gate' ? { operator: 'Ada', [name]: value } : { [name]: value },
          );
          const { status } = await ask(operationId, { ...tagOf(), query: `?${query.toString()}` });
          // Values in a query are text: other texts than true and false are no booleans.
          const isBoolean = schema['type'] === 'boolean' && !['true', 'false'].includes(value);
          const isInteger = schema['type'] === 'integer' && !/^\d+$/.test(value);
          const isValid =
            !isBoolean && !isInteger && ajv.validate({ type: 'object', properties: { v: schema } }, { v: value });
          expect([operationId, name, value, status !== 400]).toEqual([operationId, name, value, isValid]);
          compared++;
        }
    expect(compared).toBeGreaterThan(80);
  });

  test('every path that the operator’s manual names is in the document', () => {
    const manual = readFileSync('docs/operating.md', 'utf8');
    const named = [...manual.matchAll(/`(GET|POST|DELETE) (\/[\w./{}]+)/g)].map(
      ([, method, path]) => `${method} ${path}`,
    );
    expect(named.length).toBeGreaterThan(8);
    const known = contract.operations.map(({ method, path }) => `${method} ${path}`);
    expect(named.filter((each) => !known.includes(each))).toEqual([]);
  });

  test('it names its version, and each operation has a name and a summary of its own', () => {
    const { document, operations } = contract;
    expect([document.openapi, document.info.version]).toEqual(['3.1.0', '1.2.3']);
    expect(new Set(operations.map(({ operationId }) => operationId)).size).toBe(operations.length);
    expect(new Set(operations.map(({ summary }) => summary)).size).toBe(operations.length);
  });
});

describe('a running proxy', () => {
  let origin: TestOrigin;
  let app: TestApp;
  beforeAll(async () => {
    origin = await startTestOrigin();
    app = await startTestApp({ origin: origin.url, config: 'admin: 127.0.0.1:0' });
  });
  afterAll(async () => {
    await app.stop();
    await origin.close();
  });

  test('answers every read as its document says, with real uploads', async () => {
    const contract = new Contract(await documentOf(app.adminUrl!));
    const begun = { 'Upload-Draft-Interop-Version': '6', 'Upload-Complete': '?0', 'Content-Type': 'text/plain' };
    const created = await fetch(`${app.url}/files?secret=1`, { method: 'POST', headers: begun, body: 'begun' });
    expect(created.status).toBe(201);
    const listed = await fetch(`${app.adminUrl}/uploads`);
    const { uploads } = (await listed.clone().json()) as { uploads: { tag: string }[] };
    expect([uploads.length, await contract.mistakes('listUploads', listed)]).toEqual([1, undefined]);
    for (const { operationId, method, path } of contract.operations) {
      if (method !== 'GET') continue;
      const response = await fetch(`${app.adminUrl}${path.replace('{tag}', uploads[0]!.tag)}`);
      expect([operationId, response.status, await contract.mistakes(operationId, response)]).toEqual([
        operationId,
        200,
        undefined,
      ]);
    }
  });
});
