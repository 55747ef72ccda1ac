import * as z from 'zod';
import { normalizePattern } from '../model/uri.js';
import { routeAccess, routeDelivery } from './delivery-schema.js';
import { boolean, duration, httpUrl, isNull, oneOf, valueType, size, sizeOrNull, text } from './values.js';

/** Limits of an upload, without defaults: for the top, and for routes that inherit from it. */
export const limitSettings = {
  max_size: sizeOrNull().describe('Largest representation, in bytes. `null`: no limit.'),
  min_size: size().describe('Smallest representation, in bytes.'),
  max_append_size: sizeOrNull().describe('Most bytes one request may carry. `null`: no limit.'),
  min_append_size: sizeOrNull().describe(
    'Fewest bytes one request may carry, except the one that completes the upload. `null`: no limit.',
  ),
  max_age: duration({ minMs: 1000, maxMs: Infinity }).describe(
    'An upload that nothing was added to for this long is removed with its bytes.',
  ),
};

const PLAIN_BODIES = ['pass', 'refuse', 'spool'] as const;

/** `plain_bodies`, without a default: for the top, and for routes that inherit from it. */
export function plainBodies() {
  return valueType({
    read: (found) => (isNull(found) ? null : PLAIN_BODIES.find((word) => word === found)),
    allowed: 'pass, refuse, spool, or null',
    json: { enum: [...PLAIN_BODIES, null] },
    unit: 'pass \\| refuse \\| spool',
  }).describe(
    'What becomes of a request body that is no upload. `pass`: it goes to the origin as it comes, without `delivery.gate`, ' +
      '`framing`, `target` and `method`; `limits.max_size` holds. `spool`: it is taken into the spool first, then gated, ' +
      'framed and delivered like an upload, and its client gets the origin’s answer. `refuse`: 428, with a word about how ' +
      'to upload. `null`: `spool` where a gate, framing, target or method is set, else `pass`.',
  );
}

/** The settings for header fields of clients, without defaults. */
export const headerSettings = {
  underscores: oneOf(['drop', 'pass']).describe(
    'Fields with `_` in their names. Many applications cannot tell `X_User` from `X-User`, which lets a client say what ' +
      'only a proxy may: `drop` leaves them out. `pass`: for applications that need such a field.',
  ),
  original_url: oneOf(['drop', 'trust']).describe(
    '`X-Original-URL`, `X-Rewrite-URL`, `X-Forwarded-Uri`, `-Method` and their like, by which a proxy says what a request ' +
      'was for before it was rewritten. Applications that believe them serve that instead, and nobody was asked about it. ' +
      '`drop` leaves them out, whoever sends them. `trust`: those of `trusted_proxies` go on, which then must never pass on ' +
      'what a client says.',
  ),
};

const PATTERN = /^\/\S*$/;

const match = z.strictObject({
  path: z
    .union([pathPattern(), z.array(pathPattern()).min(1, 'at least one path')])
    .describe('Path patterns: `*` within one segment, `**` across segments, `{a,b}` either. One or a list.'),
  methods: z
    .union([method(), z.array(method()).min(1, 'at least one method, or leave `methods` out')])
    .optional()
    .describe(
      'The route holds for these methods only; a request with another one goes on to the next route. Without it, ' +
        'the route holds for every method. GET, HEAD, DELETE, OPTIONS, TRACE and CONNECT are never resumable. GET holds for HEAD too.',
    ),
  ignore_case: boolean()
    .optional()
    .describe(
      'Whether the origin ignores the case of letters in paths, as Express and IIS do. `true`: the route matches whatever ' +
        'the case. `false`: it matters. Left out, `/API` is refused with 400 where `/api` is a route with a `forward_auth`, ' +
        'a `gate` or a `target`.',
    ),
});

/** One entry of `routes`. */
export const routeSettings = z.strictObject({
  name: text({ form: /^[\x21-\x7e]{1,100}$/, allowed: 'a name of up to 100 visible ASCII characters' })
    .optional()
    .describe('Stands in logs, metrics and stored uploads. Default: the path patterns, separated by commas.'),
  match: match.describe('Which requests. The first route that matches wins.'),
  origin: httpUrl().optional().describe('Where these requests go. Default: the top `origin`.'),
  resumable: boolean()
    .prefault(true)
    .describe('`false`: requests of this route pass through as they are, whatever upload headers they have.'),
  limits: z
    .strictObject(limitSettings)
    .partial()
    .optional()
    .describe(
      'Replaces single settings of the top `limits`, of which `idle_timeout`, `head_timeout`, `min_rate` and `connections` are the same for all.',
    ),
  plain_bodies: plainBodies().optional(),
  delivery: routeDelivery,
  headers: z
    .strictObject(headerSettings)
    .partial()
    .optional()
    .describe('Replaces single settings of the top `headers`.'),
  ...routeAccess,
});

/** Taken into the normal form of paths, because in any other one it would never match. */
function pathPattern() {
  return z
    .unknown()
    .transform((found, context): string => {
      const form = typeof found === 'string' && PATTERN.test(found) ? normalizePattern(found) : undefined;
      if (form && 'pattern' in form) return form.pattern;
      const message = 'a path pattern that begins with /, such as /api/files/**';
      context.issues.push({
        code: 'custom',
        message: form ? `a path pattern, ${form.problem}` : message,
        input: found,
      });
      return z.NEVER;
    })
    .meta({ type: 'string', pattern: PATTERN.source, unit: 'pattern' });
}

function method() {
  return text({ form: /^[A-Z][A-Z-]*$/, allowed: 'an uppercase method, such as POST', unit: 'method' });
}
