import * as z from 'zod';
import {
  boolean,
  booleanOrNull,
  duration,
  durationOrNull,
  endpoint,
  headerName,
  integer,
  methodOrNull,
  oneOf,
  valueType,
  size,
  sizeOrNull,
  text,
  textMap,
  withDefaults,
} from './values.js';

/** Stand for something of the creation in `delivery.target`. */
const PLACEHOLDERS: readonly string[] = ['target', 'path', 'query', 'filename'];
/** Visible ASCII of a path and query; braces only around a placeholder. */
const TARGET = /^(?:\/|\{target\}|\{path\})(?:[!$%&'()*+,./:;=?@\w~-]|\{[a-z]+\})*$/;

/** Path and query of the origin's request, with placeholders. */
function targetTemplate() {
  return valueType({
    read: (found) => {
      if (found === null || found === '') return null;
      if (typeof found !== 'string' || !TARGET.test(found)) return undefined;
      const used = [...found.matchAll(/\{([a-z]+)\}/g)].map((match) => match[1]!);
      return used.every((name) => PLACEHOLDERS.includes(name)) ? found : undefined;
    },
    allowed:
      'a path and query such as /store{path}?name={filename}, with the placeholders ' +
      `${PLACEHOLDERS.map((name) => `{${name}}`).join(', ')}, or null`,
    json: { type: ['string', 'null'], pattern: TARGET.source },
    unit: 'path and query',
  });
}

const FIELD_NAME = {
  form: /^[^"\r\n\0]{1,200}$/,
  allowed: 'a field name of up to 200 characters without quotes or line breaks',
};

const multipart = z.strictObject({
  type: oneOf(['multipart'], 'multipart; for the bytes as they are write "framing: raw"')
    .prefault('multipart')
    .describe('The framing that the other settings here belong to.'),
  field: text(FIELD_NAME)
    .prefault('file')
    .describe('Name of the field that holds the file. Its filename and type are those of the creation.'),
  fields: textMap({ name: FIELD_NAME, value: { form: /^[^\0]*$/, allowed: 'a text' } })
    .prefault({})
    .describe('More fields with fixed values, before the file: `name: value`.'),
  fields_from_headers: textMap({ name: FIELD_NAME, value: headerName })
    .prefault({})
    .describe('More fields with the value of a header of the creation, before the file: `name: Header-Name`.'),
});

const framingWord = oneOf(['raw', 'multipart'], 'raw, multipart, or a group with type: multipart').transform((type) =>
  type === 'raw' ? { type } : multipart.parse({}),
);

/** What the origin's request body is. A word alone is the group with its defaults. */
function framing() {
  return z.union([framingWord, multipart]);
}

const gateGroup = z
  .strictObject({
    http: endpoint()
      .optional()
      .describe(
        'URL that gets the whole upload by POST. 2xx allows it, 4xx refuses it and is the client’s answer, 2xx with ' +
          '`X-Upload-Verdict: quarantine` keeps it for the operator. Either this or `command`.',
      ),
    command: z
      .array(text({ form: /^[^\0]+$/, allowed: 'a program or argument' }))
      .min(1, 'a list of the program and its arguments')
      .optional()
      .describe(
        'Program and arguments that get the whole upload on standard input, without a shell. Exit code 0 allows it, 1 ' +
          'refuses it with its output as the client’s answer, 3 keeps it for the operator. Either this or `http`.',
      ),
    timeout: duration({ minMs: 1 })
      .prefault('5m')
      .describe('A verdict that takes longer is none: the upload is not delivered for now.'),
  })
  .refine(({ http, command }) => (http === undefined) !== (command === undefined), {
    message: 'a group with either http or command',
  });

/** Who has to agree to a delivery. */
function gate() {
  return gateGroup.nullable();
}

/** Feeding the origin while the client uploads, without defaults. */
const eagerSettings = {
  idle: duration({ minMs: 1 }).describe(
    'A client that pauses for longer than this ends the origin’s request; the whole is delivered from the spool later.',
  ),
  unknown_length: oneOf(['chunked', 'wait']).describe(
    'An upload whose length is not known at its start: `chunked` begins at once without a `Content-Length`; `wait` ' +
      'delivers it once it is whole, for origins that need a length.',
  ),
};

/** When an origin that fails is left alone, without defaults. */
const breakerSettings = {
  failures: integer({ min: 1, max: 1_000_000 }).describe('Failures in a row that lead to a pause.'),
  pause: duration({ minMs: 1 }).describe('No request goes to that origin for this long; then one tries it.'),
};

/** How failures on the way to the origin are repeated, without defaults. */
const retrySettings = {
  attempts: integer({ min: 1, max: 1000 }).describe(
    'After so many failed attempts a client that waits is told to come again; trying goes on without it.',
  ),
  first_delay: duration({ minMs: 1 }).describe(
    'Pause before the second attempt; it doubles from attempt to attempt. `Retry-After` of the origin is honoured.',
  ),
  longest_delay: duration({ minMs: 1 }).describe('The pause grows no longer than this.'),
  retry_on: z
    .array(integer({ min: 400, max: 599 }))
    .nullable()
    .describe(
      'Statuses by which the origin says "not now": the request is repeated, whatever its method, and the status ' +
        'is not taken as its answer. `null`: by the guarantee. At most once: `[503]`, and 429 with `Retry-After`, because ' +
        'the origin itself refuses with them; 502 and 504 are a gateway’s, and leave the outcome unknown. At least once: ' +
        '`[502, 503, 504]`, and 429 with `Retry-After`.',
    ),
  while_waiting: durationOrNull().describe(
    'A client that waits is told to come again when trying has taken this long. `null`: as long as `wait`.',
  ),
  in_background: duration({ maxMs: Infinity }).describe(
    'Trying goes on until this long after the first attempt, also without a client; `limits.max_age` ends it too. `0s`: ' +
      'only as long as `attempts` and `while_waiting` allow.',
  ),
};

/** How an upload is given to its origin, without defaults and without the groups in it. */
const plainSettings = {
  mode: oneOf(['spool', 'eager']).describe(
    '`spool`: the origin gets its request once the upload is whole. `eager`: the request starts with the upload and ' +
      'is fed as it grows, so that early refusals stop the client; when it breaks off, the whole follows from the spool.',
  ),
  guarantee: oneOf(['by_method', 'at_most_once', 'at_least_once']).describe(
    'When nobody knows whether the origin got a request. `at_most_once`: it is not sent again, the upload is ' +
      '`undelivered` until a client or an operator decides. `at_least_once`: it is sent again; the origin honours ' +
      '`Idempotency-Key` or does not mind. `by_method`: at least once for idempotent methods such as PUT, at most once ' +
      'for POST, PATCH, and whatever has a condition (`If-Match`, `If-None-Match`, `If-Unmodified-Since`, `If`).',
  ),
  timeout: duration({ minMs: 1 }).describe('The origin may be silent for this long, before and within its answer.'),
  answer_timeout: durationOrNull({ minMs: 1 }).describe(
    'From the end of a delivery’s request on, the origin’s interim responses, head and body take at most this long together, ' +
      'however steadily they drip. Of a request that passes through it bounds the time until its answer begins. `null`: four ' +
      'times `timeout`.',
  ),
  max_answer_size: sizeOrNull().describe(
    'A delivery’s answer whose body is larger is not taken: the client gets 502, and nothing is sent again by itself. ' +
      '`null`: any size.',
  ),
  wait: duration().describe(
    'A client is held open at most this long for the origin’s answer; then it is told to come again, and delivery goes on.',
  ),
  respond: oneOf(['answer', 'accepted']).describe(
    'What a complete upload is answered with. `answer`: the origin’s own answer. `accepted`: 202 at once, and the upload’s ' +
      'URL tells how delivery stands and finally the answer. A client chooses 202 itself with `Prefer: respond-async`.',
  ),
  keep_answer: duration({ maxMs: Infinity }).describe(
    'How long the origin’s answer is kept for a client that did not get it.',
  ),
  keep_answer_size: size().describe('Answer bodies up to this size are kept in the record, larger ones in the spool.'),
  preserve_host: boolean().describe('The origin gets the client’s own `Host`; otherwise the host of its URL.'),
  rewrite_location: booleanOrNull().describe(
    '`Location` and `Content-Location` that name the origin’s own host name the one that clients use instead, without the ' +
      'path of `origin`. `null`: where `preserve_host` is false, or `origin` has a path.',
  ),
  method: methodOrNull().describe('Method of the origin’s request. `null`: the creation’s.'),
  target: targetTemplate().describe(
    'Path and query of the origin’s request, put behind the path of `origin`. `{target}` stands for the creation’s path ' +
      'and query, `{path}` for the path, `{query}` for the query without its question mark, `{filename}` for the name ' +
      'that `Content-Disposition` or `Upload-Metadata` gives the file, percent-encoded, or `upload`. `null`: the creation’s.',
  ),
  framing: framing().describe(
    'What the origin’s request body is. `raw`: the bytes as they are. `multipart`: a form (multipart/form-data) with ' +
      'the bytes as a file; a group as below says more about it. What is such a form already stays as it is; ' +
      'with `fields` or `fields_from_headers` it is refused with 415, because it could say them itself.',
  ),
  gate: gate().describe(
    'Who has to agree before a whole upload is delivered, such as a virus scanner: a group as below. `null`: nobody.',
  ),
  client_keys: boolean().describe(
    'A creation with an `Idempotency-Key` of its client’s own is about the upload that this client has begun with it before: ' +
      'that goes on, or its answer is given again. Only for APIs whose clients make a new key for each upload.',
  ),
  park_on: z
    .array(integer({ min: 400, max: 599 }))
    .describe(
      'Statuses by which the origin asks for other credentials, having done nothing: the upload is kept for a client that ' +
        'brings them. Some origins say so with 403, 419, 440 or 498.',
    ),
  credentials: z
    .array(text(headerName))
    .nullable()
    .describe(
      'Fields by which clients say who they are: the origin gets those of the request that completes an upload in place of the ' +
        'creation’s, and an upload that is parked (`park_on`) is delivered when any of them comes. A form’s token (`X-CSRF-Token`) ' +
        'or an `X-Api-Key` may be one. `null`: `[Authorization, Cookie]`.',
    ),
  concurrency: integer({ min: 1, max: 100_000 }).describe(
    'Most requests to one origin at a time; more wait their turn.',
  ),
};

/** Every setting of `delivery` without defaults, for routes: they replace single ones. */
export const routeDelivery = z
  .strictObject({
    ...plainSettings,
    eager: z.strictObject(eagerSettings).partial().describe('Replaces single settings of the top `delivery.eager`.'),
    breaker: z
      .strictObject(breakerSettings)
      .partial()
      .describe('Replaces single settings of the top `delivery.breaker`.'),
    retry: z.strictObject(retrySettings).partial().describe('Replaces single settings of the top `delivery.retry`.'),
  })
  .partial()
  .optional()
  .describe('Replaces single settings of the top `delivery`.');

/** `delivery` at the top. */
export const delivery = z
  .strictObject({
    ...withDefaults(plainSettings, {
      mode: 'spool',
      guarantee: 'by_method',
      timeout: '5m',
      answer_timeout: null,
      max_answer_size: '1GiB',
      wait: '60s',
      respond: 'answer',
      keep_answer: '1h',
      keep_answer_size: '1MiB',
      preserve_host: true,
      rewrite_location: null,
      method: null,
      target: null,
      framing: 'raw',
      gate: null,
      client_keys: false,
      park_on: [401, 407],
      credentials: null,
      concurrency: 64,
    }),
    eager: z
      .strictObject(withDefaults(eagerSettings, { idle: '10s', unknown_length: 'chunked' }))
      .prefault({})
      .describe('How eager delivery goes, with `mode: eager`.'),
    breaker: z
      .strictObject(withDefaults(breakerSettings, { failures: 5, pause: '10s' }))
      .prefault({})
      .describe('When an origin that fails again and again is left alone.'),
    retry: z
      .strictObject(
        withDefaults(retrySettings, {
          attempts: 5,
          first_delay: '500ms',
          longest_delay: '30s',
          retry_on: null,
          while_waiting: null,
          in_background: '1h',
        }),
      )
      .prefault({})
      .describe('What happens when the origin cannot be reached or fails.'),
  })
  .prefault({})
  .describe('How a whole upload is given to the origin.');

/** Fields that belong to a connection, frame a body or are ours to say: no answer of an authority can say them to the origin. */
const NOT_COPIED =
  /^(?:connection|content-length|date|expect|forwarded|host|idempotency-key|keep-alive|proxy-connection|te|trailer|transfer-encoding|tus-.*|upgrade|upload-.*|via|x-forwarded-(?:for|host|proto))$/i;

const copiedHeader = text({
  form: new RegExp(`^(?!${NOT_COPIED.source.slice(1)})${headerName.form.source.slice(1)}`, 'i'),
  allowed:
    'the name of a header such as Remote-User that does not belong to the connection, frame the body or come from the proxy itself',
});

const forwardAuth = z.strictObject({
  url: endpoint().describe(
    'Gets a GET with the request’s headers; its method and target are in `X-Forwarded-Method` and `X-Forwarded-Uri`.',
  ),
  timeout: duration({ minMs: 1 }).prefault('5s').describe('No answer within this time refuses the request with 503.'),
  copy_headers: z
    .array(copiedHeader)
    .prefault([])
    .describe(
      'Headers of its answer that the origin’s request gets. By these names, and by other spellings of them, the origin ' +
        'never gets anything from a client.',
    ),
  principal_header: text(headerName)
    .prefault('Remote-User')
    .describe('Header of its answer that names who asks, for `bind_to: principal`. No client can say it either.'),
});

/** A URL alone is the group with its defaults. */
const urlAlone = endpoint().transform((url) => forwardAuth.parse({ url }));

/** Who is asked before an upload begins, without defaults. */
const authorizeSettings = {
  forward_auth: z
    .union([urlAlone, forwardAuth])
    .nullable()
    .describe(
      'Asked before a byte of the body is taken: 2xx lets the request in, anything else is given to the client as the ' +
        'answer. A URL, or a group as below. `null`: nobody is asked.',
    ),
  scope: oneOf(['all', 'uploads']).describe(
    'What `forward_auth` is asked for. `all`: every request, upload or not. `uploads`: only what begins an upload; then ' +
      'everything else reaches the origin unasked, also a body that says nothing of being an upload.',
  ),
  preflight: boolean().describe(
    'The origin itself is asked with the creation’s head and `Expect: 100-continue`; its early 4xx refuses the upload.',
  ),
  recheck: boolean().describe(
    '`forward_auth` is asked again before delivery, since a right may have been withdrawn while the upload took its time.',
  ),
};

const BOUND_TO_PRINCIPAL = oneOf(['principal'], 'principal, or a list of header names such as [Authorization]');

const bindTo = z
  .union([BOUND_TO_PRINCIPAL, z.array(text(headerName))])
  .describe(
    'Ties an upload to who created it: to the values of these headers, or to the `principal` that ' +
      '`authorize.forward_auth` names. Others get 404, even with the upload’s URL. Empty: the URL is the right to write.',
  );

/** `authorize` and `bind_to` at the top. */
export const access = {
  authorize: z
    .strictObject(
      withDefaults(authorizeSettings, { forward_auth: null, scope: 'all', preflight: false, recheck: false }),
    )
    .prefault({})
    .describe('Who is asked whether a request may come in.'),
  bind_to: bindTo.prefault([]),
};

/** The same for routes, which replace single settings. */
export const routeAccess = {
  authorize: z
    .strictObject(authorizeSettings)
    .partial()
    .optional()
    .describe('Replaces single settings of the top `authorize`.'),
  bind_to: bindTo.optional(),
};
