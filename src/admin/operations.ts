import { PHASES } from '../model/upload.js';
import { type AdminRequest, type AdminResponse, methodNotAllowed, problem } from './admin-http.js';
import type { JsonSchema, SchemaName } from './schemas.js';

/** One operation of the admin API: the router and the OpenAPI document both follow it. */
export interface Operation {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** With the names of its variable segments: `/uploads/{tag}`. */
  readonly path: string;
  readonly tag: 'health' | 'uploads' | 'node' | 'keys';
  readonly summary: string;
  /** The query parameters. An operation that has some refuses all others. */
  readonly query?: Readonly<Record<string, Parameter>>;
  /** The responses of its own; those that every operation can have are in the document only. */
  readonly responses: Readonly<Record<number, Reply>>;
}

export interface Parameter {
  readonly description: string;
  readonly schema: JsonSchema;
}

export interface Reply {
  readonly description: string;
  /** The schema of a JSON body, or the media type of a text; missing: an empty body, or a problem if it is an error. */
  readonly body?: SchemaName | { readonly text: string };
}

const STARTING: Reply = { description: 'The proxy is still starting, or no worker listens; try again.' };
const UNAVAILABLE: Reply = { description: 'The proxy is still starting, or the store is unavailable; try again.' };
const BAD_QUERY: Reply = { description: 'A query parameter is unknown or has an invalid value.' };
const UNKNOWN_TAG: Reply = { description: 'No upload has this tag.' };
const NOT_HERE: Reply = {
  description: 'The upload is on another node, its tag is not unique, or its state does not allow it.',
};

const OPERATOR: Parameter = {
  description: 'The name of the operator, for the log. Everybody with access can send any name.',
  schema: { type: 'string', minLength: 1, maxLength: 100 },
};

const LIST_QUERY = {
  phase: { description: 'Only uploads in this phase.', schema: { enum: PHASES } },
  find: {
    description: 'Only uploads with this tag, path of the creation, `Idempotency-Key` or address of the client.',
    schema: { type: 'string', minLength: 1 },
  },
  limit: {
    description: 'The largest number of uploads on the page.',
    schema: { type: 'integer', minimum: 1, maximum: 1000, default: 100 },
  },
  after: {
    description: 'The `next` of the previous page.',
    schema: { type: 'string', pattern: '^\\d{1,16}\\.[0-9a-f]{10}$' },
  },
} satisfies Record<string, Parameter>;

const MOVE: Parameter = {
  description: 'Also move the uploads of this node to other nodes.',
  schema: { type: 'boolean', default: false },
};

/** All operations of the admin listener, by name. Reasons: docs/decisions/0044. */
export const OPERATIONS = {
  getHealth: {
    ...{ method: 'GET', path: '/healthz', tag: 'health', summary: 'Whether the process works' },
    responses: { 200: { description: 'It works.', body: 'Alive' } },
  },
  getReadiness: {
    ...{ method: 'GET', path: '/readyz', tag: 'health', summary: 'Whether the process takes requests' },
    responses: {
      200: { description: 'It takes requests; a check that is not ok concerns only some of them.', body: 'Readiness' },
      503: { description: 'It should get no requests; the checks say why.', body: 'Readiness' },
    },
  },
  getMetrics: {
    ...{ method: 'GET', path: '/metrics', tag: 'health', summary: 'Metrics in the text format of Prometheus' },
    responses: { 200: { description: 'The metrics.', body: { text: 'text/plain' } } },
  },
  getStatus: {
    ...{ method: 'GET', path: '/status', tag: 'health', summary: 'What an operator asks first' },
    responses: { 200: { description: 'The state of this node.', body: 'Status' }, 503: STARTING },
  },
  getDocument: {
    ...{ method: 'GET', path: '/openapi.json', tag: 'health', summary: 'This document' },
    responses: { 200: { description: 'An OpenAPI 3.1 document.', body: 'Document' } },
  },
  listUploads: {
    ...{ method: 'GET', path: '/uploads', tag: 'uploads', summary: 'The uploads of the store, newest first' },
    query: LIST_QUERY,
    responses: {
      200: { description: 'One page of uploads.', body: 'UploadList' },
      ...{ 400: BAD_QUERY, 503: UNAVAILABLE },
    },
  },
  getUpload: {
    ...{ method: 'GET', path: '/uploads/{tag}', tag: 'uploads', summary: 'One upload with what happened to it' },
    responses: {
      200: { description: 'The upload; header fields only by name.', body: 'AnyUpload' },
      ...{ 404: UNKNOWN_TAG, 409: NOT_HERE, 503: UNAVAILABLE },
    },
  },
  cancelUpload: {
    ...{ method: 'DELETE', path: '/uploads/{tag}', tag: 'uploads', summary: 'End an upload and remove its bytes' },
    query: { operator: OPERATOR },
    responses: {
      204: { description: 'The upload is removed.' },
      ...{ 400: BAD_QUERY, 404: UNKNOWN_TAG, 409: NOT_HERE },
      410: { description: 'The upload had ended already.' },
      503: UNAVAILABLE,
    },
  },
  redeliverUpload: {
    ...{ method: 'POST', path: '/uploads/{tag}/redeliver', tag: 'uploads', summary: 'Deliver an upload again' },
    query: {
      operator: OPERATOR,
      past_gate: {
        description: 'Deliver without asking the gate of the route. Needs `operator`.',
        schema: { type: 'boolean', default: false },
      },
    },
    responses: {
      202: { description: 'An attempt follows.', body: 'Redelivery' },
      ...{ 400: BAD_QUERY, 404: UNKNOWN_TAG, 409: NOT_HERE, 503: UNAVAILABLE },
    },
  },
  getDrain: {
    ...{ method: 'GET', path: '/drain', tag: 'node', summary: 'The progress of draining this node' },
    responses: { 200: { description: 'The state.', body: 'Drain' }, 503: STARTING },
  },
  beginDrain: {
    ...{ method: 'POST', path: '/drain', tag: 'node', summary: 'Accept no new uploads' },
    query: { move: MOVE },
    responses: {
      202: { description: 'This node is draining.', body: 'Drain' },
      ...{ 400: BAD_QUERY },
      503: { description: 'The proxy is still starting, or the other nodes could not be told; try again.' },
    },
  },
  endDrain: {
    ...{ method: 'DELETE', path: '/drain', tag: 'node', summary: 'Accept new uploads again' },
    responses: {
      200: { description: 'This node is not draining.', body: 'Drain' },
      503: { description: 'The proxy is still starting, or the other nodes could not be told; try again.' },
    },
  },
  reload: {
    ...{ method: 'POST', path: '/reload', tag: 'node', summary: 'Load the configuration again' },
    responses: {
      200: { description: 'The new configuration applies.', body: 'Reloaded' },
      422: { description: 'The new configuration was refused, for all of `errors`; the former one still applies.' },
      503: STARTING,
    },
  },
  addKey: {
    ...{ method: 'POST', path: '/keys', tag: 'keys', summary: 'Add a key that seals secrets from now on' },
    responses: { 201: { description: 'The key in use.', body: 'AddedKey' }, 503: UNAVAILABLE },
  },
  resealPage: {
    ...{ method: 'POST', path: '/keys/reseal', tag: 'keys', summary: 'Seal one page of records with the newest key' },
    query: {
      after: {
        description: 'The `next` of the previous page.',
        schema: { type: 'string' },
      },
    },
    responses: {
      200: { description: 'The page is sealed.', body: 'ResealedPage' },
      ...{ 400: BAD_QUERY, 503: UNAVAILABLE },
    },
  },
  dropOlderKeys: {
    ...{ method: 'DELETE', path: '/keys/older', tag: 'keys', summary: 'Drop the keys that no record needs' },
    responses: {
      200: { description: 'They are dropped, or the reason why not.', body: 'DroppedKeys' },
      409: { description: 'Uploads still need an older key.', body: 'DroppedKeys' },
      503: UNAVAILABLE,
    },
  },
} as const satisfies Readonly<Record<string, Operation>>;

export type OperationName = keyof typeof OPERATIONS;

/** The operation that a request asks for, or the refusal of a request for none. */
type Found =
  | { readonly name: OperationName; readonly refusal?: undefined }
  | { readonly name?: undefined; readonly refusal: AdminResponse };

/** Finds the operation for a request. HEAD is like GET, as RFC 9110 §9.3.2 wants. */
export function findOperation({ method, path, query }: AdminRequest): Found {
  const here = (Object.entries(OPERATIONS) as [OperationName, Operation][]).filter(([, operation]) =>
    matches(operation.path, path),
  );
  if (here.length === 0) return { refusal: problem(404) };
  const asked = method === 'HEAD' ? 'GET' : method;
  const found = here.find(([, operation]) => operation.method === asked);
  if (!found) return { refusal: methodNotAllowed(here.flatMap(([, operation]) => methodsOf(operation))) };
  const [name, operation] = found;
  const unknown = unknownParameter(operation, query);
  return unknown === undefined ? { name } : { refusal: problem(400, unknown) };
}

function methodsOf({ method }: Operation): string[] {
  return method === 'GET' ? ['GET', 'HEAD'] : [method];
}

function matches(template: string, path: string): boolean {
  const expected = template.split('/');
  const given = path.split('/');
  return (
    expected.length === given.length &&
    expected.every((segment, index) => (segment.startsWith('{') ? given[index] !== '' : segment === given[index]))
  );
}

/** A mistyped parameter must not change what is done: `?mvoe=true` would drain without moving anything. */
function unknownParameter({ query: known }: Operation, query: URLSearchParams): string | undefined {
  if (!known) return undefined;
  const unknown = [...query.keys()].find((key) => !Object.hasOwn(known, key));
  if (unknown === undefined) return undefined;
  return `There is no parameter ${JSON.stringify(unknown)}; known: ${Object.keys(known).join(', ')}.`;
}
