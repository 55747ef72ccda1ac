import { PHASES } from '../model/upload.js';
import { STORY_EVENTS } from './story-schemas.js';

/** A JSON Schema (2020-12), as OpenAPI 3.1 uses it, or a part of a document made of such. */
export interface JsonSchema {
  readonly [keyword: string]: unknown;
}

const STRING = { type: 'string' };
const BOOLEAN = { type: 'boolean' };
const COUNT = { type: 'integer', minimum: 0 };
const TIME = { type: 'string', format: 'date-time' };
const TAG = { type: 'string', pattern: '^[0-9a-f]{10}$' };
const STATUS = { type: 'integer', minimum: 100, maximum: 599 };
const STRINGS = { type: 'array', items: STRING };

type Properties = Readonly<Record<string, unknown>>;

/** An object. Later versions may add properties, so readers ignore those they do not know. */
function object(required: Properties, optional: Properties = {}): JsonSchema {
  return { type: 'object', required: Object.keys(required), properties: { ...required, ...optional } };
}

function listOf(items: unknown): JsonSchema {
  return { type: 'array', items };
}

function ref(name: string): JsonSchema {
  return { $ref: `#/components/schemas/${name}` };
}

const REACHED = {
  enum: ['never-sent', 'sent-in-part', 'sent', 'answered'],
  description: 'How far it got; missing while it is under way.',
};

const SUMMARY = {
  required: {
    tag: TAG,
    phase: { enum: PHASES },
    route: { ...STRING, description: 'The name of the route, which is its path.' },
    dialect: { ...STRING, description: 'The protocol version, `tus`, or `plain` for an ordinary request.' },
    method: STRING,
    target: { ...STRING, description: 'The target of the creation, without query values.' },
    offset: { ...COUNT, description: 'Committed bytes.' },
    attempts: COUNT,
    createdAt: TIME,
    expiresAt: TIME,
  },
  optional: {
    length: COUNT,
    newestAttempt: ref('Attempt'),
    status: { ...STATUS, description: 'The status of the answer.' },
    undelivered: ref('Undelivered'),
    dueAt: { ...TIME, description: 'The time of the next attempt.' },
  },
};

const LIMITS = object(
  { minSize: COUNT, maxAgeSeconds: COUNT },
  { maxSize: COUNT, maxAppendSize: COUNT, minAppendSize: COUNT, maxEmptyAgeSeconds: COUNT },
);

const CONFIG_ERROR = object({ problem: STRING }, { setting: STRING, source: STRING, line: COUNT, column: COUNT });

/** The bodies of the admin API. */
export const SCHEMAS = {
  Problem: {
    description: 'RFC 9457. `detail` says what is wrong and how to solve it.',
    ...object(
      { type: STRING, title: STRING, status: STATUS },
      { detail: STRING, errors: { ...listOf(CONFIG_ERROR), description: 'The mistakes of a configuration.' } },
    ),
  },
  Document: object({
    openapi: { const: '3.1.0' },
    info: { type: 'object' },
    security: { type: 'array' },
    tags: { type: 'array' },
    paths: { type: 'object' },
    components: { type: 'object' },
  }),
  Alive: object({ alive: { const: true } }),
  Readiness: object({
    ready: BOOLEAN,
    checks: listOf(object({ name: STRING, ok: BOOLEAN }, { problem: STRING })),
  }),
  Attempt: object(
    { number: COUNT, origin: STRING, startedAt: TIME },
    { endedAt: TIME, reached: REACHED, status: STATUS, problem: STRING },
  ),
  Undelivered: object(
    {
      reason: { enum: ['unreachable', 'refused', 'outcome-unknown', 'unauthorized', 'quarantined'] },
      problem: STRING,
    },
    { status: STATUS },
  ),
  UploadSummary: object(SUMMARY.required, SUMMARY.optional),
  Unreadable: {
    description: 'An upload whose record or bytes exist but cannot be read.',
    ...object({ tag: TAG, phase: { enum: ['unreadable', 'damaged'] }, problem: STRING, since: TIME }),
  },
  UploadList: object(
    { uploads: listOf(ref('UploadSummary')) },
    {
      unknownUploads: {
        description: 'Uploads in the spool that the store does not know.',
        ...object({ uploads: COUNT, bytes: COUNT, since: TIME, problem: STRING }),
      },
      setAside: listOf(ref('Unreadable')),
      next: { ...STRING, description: 'The value of `after` for the next page; missing on the last one.' },
    },
  ),
  Upload: object(
    {
      ...SUMMARY.required,
      limits: LIMITS,
      digests: listOf(object({ algorithm: STRING, value: STRING })),
      bound: { ...BOOLEAN, description: 'Only the principal that created it may continue it.' },
      idempotencyKey: STRING,
      request: object(
        {
          ...{ scheme: { enum: ['http', 'https'] }, authority: STRING, httpVersion: STRING },
          ...{ client: STRING, headerNames: STRINGS },
        },
        { contentType: STRING },
      ),
      newestAttempts: listOf(ref('Attempt')),
    },
    {
      ...SUMMARY.optional,
      answer: object({ status: STATUS, reason: STRING, headerNames: STRINGS, bodySize: COUNT, at: TIME }),
      story: ref('Story'),
    },
  ),
  RemovedUpload: {
    description: 'An upload of which only the story is left.',
    ...object({ tag: TAG, phase: { const: 'removed' }, story: ref('Story') }),
  },
  Story: {
    ...{ description: 'What happened, oldest first; missing if that is not kept.', ...listOf(ref('StoryEntry')) },
  },
  StoryEntry: { anyOf: STORY_EVENTS },
  AnyUpload: { anyOf: [ref('Upload'), ref('Unreadable'), ref('RemovedUpload')] },

  Status: object(
    {
      ...{ version: STRING, nodeVersion: STRING, startedAt: TIME, uptimeSeconds: COUNT, draining: BOOLEAN },
      configAppliedAt: { ...TIME, description: 'When the configuration that applies was put into use.' },
      spool: object({}, { storedBytes: COUNT, reservedBytes: COUNT, freeBytes: COUNT, freeFiles: COUNT }),
      origins: {
        description: 'The origins that this process has delivered to. `open`: no requests for now.',
        ...listOf(
          object({ origin: STRING, breaker: { enum: ['closed', 'open', 'probing'] }, active: COUNT, queued: COUNT }),
        ),
      },
      certificates: listOf(object({ listener: STRING, expiresAt: TIME })),
    },
    {
      node: { ...STRING, description: 'The name of this node.' },
      uploads: {
        description: 'The number of uploads by phase; missing while the store is unavailable.',
        ...object({}, Object.fromEntries(PHASES.map((phase) => [phase, COUNT]))),
      },
      nodes: {
        description: 'The nodes that share the store.',
        ...listOf(object({ name: STRING, url: STRING, silentMs: { type: 'number' }, leaving: BOOLEAN })),
      },
      workers: listOf(object({ number: COUNT, listening: BOOLEAN })),
    },
  ),
  Redelivery: object({ tag: TAG }),
  Drain: object(
    { draining: BOOLEAN },
    {
      move: object(
        { moved: COUNT, bytes: COUNT, isDone: BOOLEAN },
        { left: COUNT, problem: STRING, isImpossible: { const: true }, remark: STRING },
      ),
    },
  ),
  Reloaded: object({ reloaded: { const: true }, changed: STRINGS, warnings: listOf(CONFIG_ERROR) }),
  AddedKey: object({ key: STRING, isNew: BOOLEAN }),
  ResealedPage: object({ resealed: COUNT, unreadable: COUNT }, { next: STRING }),
  DroppedKeys: object({ kind: { enum: ['dropped', 'in-use', 'wait', 'not-ours'] } }, { uploads: COUNT, ms: COUNT }),
} as const satisfies Readonly<Record<string, JsonSchema>>;

export type SchemaName = keyof typeof SCHEMAS;
