import { statusPhrase } from '../model/status-phrases.js';
import { type Operation, OPERATIONS, type Parameter, type Reply } from './operations.js';
import { type JsonSchema, SCHEMAS } from './schemas.js';

/** The OpenAPI 3.1 document of the admin API, made from the table that the router follows (docs/decisions/0044). */
export function openApiDocument(version: string): JsonSchema {
  const paths: Record<string, Record<string, JsonSchema>> = {};
  for (const [name, operation] of Object.entries(OPERATIONS) as [string, Operation][])
    (paths[operation.path] ??= {})[operation.method.toLowerCase()] = describeOperation(name, operation);
  return {
    openapi: '3.1.0',
    info: { title: 'rufh-proxy admin API', version, description: DESCRIPTION, license: LICENSE },
    security: [{}, { token: [] }],
    tags: TAGS,
    paths,
    components: { schemas: SCHEMAS, responses: EVERYWHERE, securitySchemes: SECURITY },
  };
}

const DESCRIPTION =
  'Health, metrics and administration of a rufh-proxy. Every GET operation also answers HEAD. Requests with an `Origin`, ' +
  'and those that a browser sends for another site, get 403. Without `admin.token_file` no token is needed.';

const LICENSE = { name: 'MIT', identifier: 'MIT' };

const TAGS = [
  { name: 'health', description: 'Pages for probes, Prometheus and tools.' },
  { name: 'uploads', description: 'Uploads, named by their tag: the short hash that logs show too.' },
  { name: 'node', description: 'This node: draining and its configuration.' },
  { name: 'keys', description: 'Rotation of the keys that seal stored secrets.' },
] satisfies readonly { readonly name: Operation['tag']; readonly description: string }[];

const SECURITY = {
  token: { type: 'http', scheme: 'bearer', description: 'The token of `admin.token_file`.' },
};

const PROBLEM = { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } };

/** The responses that every operation can have. */
const EVERYWHERE = {
  Unauthorized: describeReply(401, { description: 'The token is missing or wrong.' }),
  Forbidden: describeReply(403, { description: 'The request comes from a web page, or names an unknown host.' }),
  InternalServerError: describeReply(500, { description: 'The operation failed; the log says why.' }),
};

function describeOperation(operationId: string, operation: Operation): JsonSchema {
  const { tag, summary, path, query = {}, responses } = operation;
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => describeParameter('path', name!, PATH_PARAMETER));
  const inQuery = Object.entries(query).map(([name, parameter]) => describeParameter('query', name, parameter));
  const own = Object.entries(responses).map(([status, reply]) => [status, describeReply(Number(status), reply)]);
  return {
    operationId,
    tags: [tag],
    summary,
    parameters: [...inPath, ...inQuery],
    responses: {
      ...(Object.fromEntries(own) as JsonSchema),
      401: { $ref: '#/components/responses/Unauthorized' },
      403: { $ref: '#/components/responses/Forbidden' },
      500: { $ref: '#/components/responses/InternalServerError' },
    },
  };
}

const PATH_PARAMETER: Parameter = {
  description: 'The tag of the upload.',
  schema: { type: 'string', pattern: '^[0-9a-f]{10}$' },
};

function describeParameter(place: 'path' | 'query', name: string, { description, schema }: Parameter): JsonSchema {
  return { name, in: place, required: place === 'path', description, schema };
}

function describeReply(status: number, { description, body }: Reply): JsonSchema {
  const isProblem = status >= 400 && body === undefined;
  if (isProblem) return { description: `${statusPhrase(status)}: ${description}`, content: PROBLEM };
  if (body === undefined) return { description };
  if (typeof body === 'object') return { description, content: { [body.text]: { schema: { type: 'string' } } } };
  return { description, content: { 'application/json': { schema: { $ref: `#/components/schemas/${body}` } } } };
}
