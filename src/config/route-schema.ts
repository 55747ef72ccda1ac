import * as z from 'zod';
import { normalizePattern } from '../model/uri.js';
import { corsSettings } from './cors.js';
import { routeAccess, routeDelivery } from './delivery-schema.js';
import {
  boolean,
  duration,
  httpUrl,
  integerOrNull,
  isNull,
  oneOf,
  valueType,
  size,
  sizeOrNull,
  text,
} from './values.js';

/** Limits of an upload, without defaults: for the top level and for routes. */
export const limitSettings = {
  max_size: sizeOrNull().describe('Maximum size of an upload, in bytes. `null`: no limit.'),
  min_size: size().describe(
    'Size in bytes from which resuming is worth it. A smaller upload that arrives in one request passes through; it is never refused.',
  ),
  max_append_size: sizeOrNull().describe('Maximum size of one request, in bytes. `null`: no limit.'),
  min_append_size: sizeOrNull().describe(
    'Minimum size of one request, in bytes, except the one that completes the upload. `null`: no limit.',
  ),
  max_age: duration({ minMs: 1000, maxMs: Infinity }).describe(
    'An upload that receives nothing for this long is deleted.',
  ),
  max_idle_empty: duration({ minMs: 1000, maxMs: Infinity }).describe(
    'The same for an upload that has not received a single byte, if it is shorter than `max_age`.',
  ),
  max_uploads: integerOrNull({ min: 1, max: 100_000_000 }).describe(
    'Maximum number of uploads of a route that are not answered yet; further ones get 503. `null`: no limit.',
  ),
  max_spooled: sizeOrNull().describe(
    'Maximum number of bytes that these uploads take in the spool, those that are still to come included; an upload that does not ' +
      'fit gets 507. `null`: no limit.',
  ),
};

const PLAIN_BODIES = ['pass', 'refuse', 'spool'] as const;

/** `plain_bodies`, without a default: for the top level and for routes. */
export function plainBodies() {
  return valueType({
    read: (found) => (isNull(found) ? null : PLAIN_BODIES.find((word) => word === found)),
    allowed: 'pass, refuse, spool, or null',
    json: { enum: [...PLAIN_BODIES, null] },
    unit: 'pass \\| refuse \\| spool',
  }).describe(
    'How a request body that is not an upload is handled. `pass`: it is streamed to the origin unchanged, without `delivery.gate`, ' +
      '`framing`, `target` and `method`; `limits.max_size` applies. `spool`: it is stored in the spool first, then checked by the gate, ' +
      'framed and delivered like an upload, and its client gets the response of the origin. `refuse`: 428, with an explanation ' +
      'of how to upload. `null`: `spool` if a gate, framing, target or method is set, otherwise `pass`.',
  );
}

/** `protocols`, without a default: for the top level and for routes. */
export function protocols() {
  return z
    .array(oneOf(['rufh', 'tus']))
    .min(1, 'at least one protocol; `resumable: false` on a route offers none')
    .describe(
      'The upload protocols that clients may use. `rufh`: Resumable Uploads for HTTP of the IETF, in all its versions. `tus`: tus ' +
        '1.0.0. An upload may begin with one and continue with the other. A client of a protocol that is left out gets a 400 that says ' +
        'so, and nothing of it reaches the origin, except a complete request of the draft, which is an ordinary one then.',
    );
}

/** The settings for header fields of clients, without defaults. */
export const headerSettings = {
  underscores: oneOf(['drop', 'pass']).describe(
    'Header fields with `_` in their names. Many applications cannot tell `X_User` from `X-User`, so a client could set a field that ' +
      'only a proxy may set. `drop`: removed. `pass`: forwarded, for applications that need such a field.',
  ),
  original_url: oneOf(['drop', 'trust']).describe(
    '`X-Original-URL`, `X-Rewrite-URL`, `X-Forwarded-Uri`, `X-Forwarded-Method` and similar fields, in which a proxy reports the ' +
      'target of a request before it rewrote it. An application that trusts them serves that target, which nobody has authorized. ' +
      '`drop`: always removed. `trust`: forwarded if they come from `trusted_proxies`, which then must never forward ' +
      'such fields from clients.',
  ),
};

const PATTERN = /^\/\S*$/;

const match = z.strictObject({
  path: z
    .union([pathPattern(), z.array(pathPattern()).min(1, 'at least one path')])
    .describe(
      'Path patterns: `*` within one segment, `**` across segments, `{a,b}` for `a` or `b`. One pattern or a list.',
    ),
  methods: z
    .union([method(), z.array(method()).min(1, 'at least one method, or leave `methods` out')])
    .optional()
    .describe(
      'The route applies to these methods only; a request with another method goes on to the next route. Without it, ' +
        'the route applies to every method. GET, HEAD, DELETE, OPTIONS, TRACE and CONNECT are never resumable. GET includes HEAD.',
    ),
  ignore_case: boolean()
    .optional()
    .describe(
      'Whether the origin ignores case in paths, as Express and IIS do. `true`: the route matches regardless of ' +
        'case. `false`: case matters. If not set, `/API` is refused with 400 where `/api` is a route with a `forward_auth`, ' +
        'a `gate` or a `target`.',
    ),
});

/** One entry of `routes`. */
export const routeSettings = z.strictObject({
  name: text({ pattern: /^[\x21-\x7e]{1,100}$/, allowed: 'a name of up to 100 visible ASCII characters' })
    .optional()
    .describe(
      'Identifies the route in logs, metrics and stored uploads. Default: the path patterns, separated by commas.',
    ),
  match: match.describe('Which requests the route applies to. The first matching route wins.'),
  origin: httpUrl().optional().describe('Where these requests go. Default: the top-level `origin`.'),
  resumable: boolean()
    .prefault(true)
    .describe('`false`: requests of this route pass through unchanged, even with upload headers.'),
  limits: z
    .strictObject(limitSettings)
    .partial()
    .optional()
    .describe(
      'Replaces single settings of the top-level `limits`, except `idle_timeout`, `head_timeout`, `max_head`, `min_rate`, `connections` and `uploads`, which are the same for all routes.',
    ),
  plain_bodies: plainBodies().optional(),
  protocols: protocols().optional(),
  delivery: routeDelivery,
  headers: z
    .strictObject(headerSettings)
    .partial()
    .optional()
    .describe('Replaces single settings of the top-level `headers`.'),
  cors: z.strictObject(corsSettings).partial().optional().describe('Replaces single settings of the top-level `cors`.'),
  ...routeAccess,
});

/** A path pattern, normalized like request paths; otherwise it would never match. */
function pathPattern() {
  return z
    .unknown()
    .transform((found, context): string => {
      const normalized = typeof found === 'string' && PATTERN.test(found) ? normalizePattern(found) : undefined;
      if (normalized && 'pattern' in normalized) return normalized.pattern;
      const message = 'a path pattern that begins with /, such as /api/files/**';
      context.issues.push({
        code: 'custom',
        message: normalized ? `a path pattern, ${normalized.problem}` : message,
        input: found,
      });
      return z.NEVER;
    })
    .meta({ type: 'string', pattern: PATTERN.source, unit: 'pattern' });
}

function method() {
  return text({ pattern: /^[A-Z][A-Z-]*$/, allowed: 'an uppercase method, such as POST', unit: 'method' });
}
