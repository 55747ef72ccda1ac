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

/** Placeholders in `delivery.target`, which stand for parts of the request that creates the upload. */
const PLACEHOLDERS: readonly string[] = ['target', 'path', 'query', 'filename', 'metadata.KEY'];
const PLACEHOLDER = /^(?:target|path|query|filename|metadata\.[\w-]{1,100})$/;
/** Visible ASCII of a path and query; braces only around a placeholder. */
const TARGET = /^(?:\/|\{target\}|\{path\})(?:[!$%&'()*+,./:;=?@\w~-]|\{[\w.-]+\})*$/;

/** Path and query of the origin's request, with placeholders. */
function targetTemplate() {
  return valueType({
    read: (found) => {
      if (found === null || found === '') return null;
      if (typeof found !== 'string' || !TARGET.test(found)) return undefined;
      const used = [...found.matchAll(/\{([^{}]+)\}/g)].map((match) => match[1]!);
      return used.every((name) => PLACEHOLDER.test(name)) ? found : undefined;
    },
    allowed:
      'a path and query such as /store{path}?name={filename}, with the placeholders ' +
      `${PLACEHOLDERS.map((name) => `{${name}}`).join(', ')}, or null`,
    json: { type: ['string', 'null'], pattern: TARGET.source },
    unit: 'path and query',
  });
}

const FIELD_NAME = {
  pattern: /^[^"\r\n\0]{1,200}$/,
  allowed: 'a field name of up to 200 characters without quotes or line breaks',
};

const METADATA_KEY = {
  pattern: /^[!-+\--~]{1,200}$/,
  allowed: 'a key of Upload-Metadata: up to 200 visible ASCII characters without spaces and commas',
};

const multipart = z.strictObject({
  type: oneOf(['multipart'], 'multipart; to send the bytes as they are, write "framing: raw"')
    .prefault('multipart')
    .describe('The framing that the other settings here belong to.'),
  field: text(FIELD_NAME)
    .prefault('file')
    .describe('Name of the field that holds the file. Its filename and type are those of the creation.'),
  fields: textMap({ name: FIELD_NAME, value: { pattern: /^[^\0]*$/, allowed: 'a text' } })
    .prefault({})
    .describe('More fields with fixed values, before the file: `name: value`.'),
  fields_from_headers: textMap({ name: FIELD_NAME, value: headerName })
    .prefault({})
    .describe('More fields with the value of a header of the creation, before the file: `name: Header-Name`.'),
  fields_from_metadata: textMap({ name: FIELD_NAME, value: METADATA_KEY })
    .prefault({})
    .describe(
      'More fields with the value of a pair of `Upload-Metadata`, as tus clients send it, before the file: `name: key`. ' +
        'Only text of UTF-8, without control characters; the client decides it.',
    ),
});

const framingWord = oneOf(['raw', 'multipart'], 'raw, multipart, or a group with type: multipart').transform((type) =>
  type === 'raw' ? { type } : multipart.parse({}),
);

/** Body of the request to the origin: a group, or a word for the group with its defaults. */
function framing() {
  return z.union([framingWord, multipart]);
}

const gateGroup = z
  .strictObject({
    http: endpoint()
      .optional()
      .describe(
        'URL that receives the complete upload by POST. 2xx allows it, 4xx refuses it and is passed to the client, 2xx with ' +
          '`X-Upload-Verdict: quarantine` keeps it for the operator. Set either this or `command`.',
      ),
    command: z
      .array(text({ pattern: /^[^\0]+$/, allowed: 'a program or argument' }))
      .min(1, 'a list of the program and its arguments')
      .optional()
      .describe(
        'Program and arguments, run without a shell, with the complete upload on standard input. Exit code 0 allows it, 1 ' +
          'refuses it with the output as the response to the client, 3 keeps it for the operator. Set either this or `http`.',
      ),
    timeout: duration({ minMs: 1 })
      .prefault('5m')
      .describe('If the verdict takes longer, the upload is not delivered for now.'),
  })
  .refine(({ http, command }) => (http === undefined) !== (command === undefined), {
    message: 'a group with either http or command',
  });

/** The check that must approve a delivery, or `null`. */
function gate() {
  return gateGroup.nullable();
}

/** `eager`, without defaults. */
const eagerSettings = {
  idle: duration({ minMs: 1 }).describe(
    'If the client pauses for longer than this, the request to the origin is aborted; the complete upload is delivered from the spool later.',
  ),
  unknown_length: oneOf(['chunked', 'wait']).describe(
    'For an upload whose length is unknown at its start: `chunked` starts immediately, without `Content-Length`; `wait` ' +
      'delivers it once it is complete, for origins that need a length.',
  ),
};

/** `breaker`, without defaults. */
const breakerSettings = {
  failures: integer({ min: 1, max: 1_000_000 }).describe(
    'Consecutive failures before requests to the origin are paused.',
  ),
  pause: duration({ minMs: 1 }).describe('How long no request is sent to that origin; then a single request tests it.'),
};

/** `retry`, without defaults. */
const retrySettings = {
  attempts: integer({ min: 1, max: 1000 }).describe(
    'After this many failed attempts a waiting client is told to retry later; attempts continue without it.',
  ),
  first_delay: duration({ minMs: 1 }).describe(
    'Delay before the second attempt; it doubles with each attempt. `Retry-After` from the origin is honoured.',
  ),
  longest_delay: duration({ minMs: 1 }).describe('Upper limit of that delay.'),
  retry_on: z
    .array(integer({ min: 400, max: 599 }))
    .nullable()
    .describe(
      'Statuses that mean "not now": the request is repeated, whatever its method, and the response ' +
        'is not final. `null`: depends on the guarantee. At most once: `[503]`, and 429 with `Retry-After`, because ' +
        'the origin itself refuses with them; 502 and 504 come from gateways and leave the outcome unknown. At least once: ' +
        '`[502, 503, 504]`, and 429 with `Retry-After`.',
    ),
  while_waiting: durationOrNull().describe(
    'A waiting client is told to retry later once attempts have taken this long. `null`: as long as `wait`.',
  ),
  in_background: duration({ maxMs: Infinity }).describe(
    'Attempts continue for this long after the first one, even without a client; `limits.max_age` ends them too. `0s`: ' +
      'only as long as `attempts` and `while_waiting` allow.',
  ),
};

/** The settings of `delivery` that are not groups, without defaults. */
const ungroupedSettings = {
  mode: oneOf(['spool', 'eager']).describe(
    '`spool`: the origin gets the request once the upload is complete. `eager`: the request starts with the upload and ' +
      'sends its bytes as they arrive, so that early refusals stop the client; if it is interrupted, the complete upload is delivered from the spool.',
  ),
  guarantee: oneOf(['by_method', 'at_most_once', 'at_least_once']).describe(
    'What happens when it is unknown whether the origin received a request. `at_most_once`: it is not sent again; the upload is ' +
      '`undelivered` until a client or an operator decides. `at_least_once`: it is sent again; the origin must honour ' +
      '`Idempotency-Key` or tolerate repeats. `by_method`: at least once for idempotent methods such as PUT, at most once ' +
      'for POST, PATCH and conditional requests (`If-Match`, `If-None-Match`, `If-Unmodified-Since`, `If`).',
  ),
  timeout: duration({ minMs: 1 }).describe('How long the origin may be silent, before and during its response.'),
  answer_timeout: durationOrNull({ minMs: 1 }).describe(
    'Maximum time from the end of a delivery’s request to the end of the response, including interim responses, ' +
      'even if data keeps arriving. For a request that passes through, it limits the time until its response begins. `null`: four ' +
      'times `timeout`.',
  ),
  max_answer_size: sizeOrNull().describe(
    'A larger response body to a delivery is rejected: the client gets 502, and the upload is not sent again automatically. ' +
      '`null`: any size.',
  ),
  wait: duration().describe(
    'How long a client waits for the response of the origin; then it is told to retry later, and the delivery continues.',
  ),
  respond: oneOf(['answer', 'accepted']).describe(
    'Response to a completed upload. `answer`: the response of the origin. `accepted`: 202 immediately; the upload’s ' +
      'URL then shows the state of the delivery and finally the response. A client can request 202 with `Prefer: respond-async`.',
  ),
  keep_answer: duration({ maxMs: Infinity }).describe(
    'How long the response of the origin is kept for a client that did not receive it.',
  ),
  keep_answer_size: size().describe(
    'Response bodies up to this size are kept in the record, larger ones in the spool.',
  ),
  preserve_host: boolean().describe(
    '`true`: the origin gets the `Host` of the client. `false`: it gets the host of its URL.',
  ),
  rewrite_location: booleanOrNull().describe(
    'Rewrites the host of the origin in `Location` and `Content-Location` to the one that clients use, and removes the ' +
      'path of `origin`. `null`: `true` if `preserve_host` is false or `origin` has a path.',
  ),
  method: methodOrNull().describe('Method of the request to the origin. `null`: that of the creation.'),
  target: targetTemplate().describe(
    'Path and query of the request to the origin, appended to the path of `origin`. `{target}` stands for the creation’s path ' +
      'and query, `{path}` for the path, `{query}` for the query without its question mark, `{filename}` for the name ' +
      'that `Content-Disposition` or `Upload-Metadata` gives the file, percent-encoded, or `upload`, and `{metadata.KEY}` for the ' +
      'value of that pair of `Upload-Metadata`, percent-encoded, or `unknown`. `null`: those of the creation.',
  ),
  framing: framing().describe(
    'Body of the request to the origin. `raw`: the bytes as they are. `multipart`: a form (multipart/form-data) with ' +
      'the bytes as a file; a group as below sets its details. An upload that already is such a form stays unchanged; ' +
      'with fields of its own it is refused with 415, because it could contain those fields itself.',
  ),
  gate: gate().describe(
    'A check that must approve a complete upload before delivery, such as a virus scanner: a group as below. `null`: none.',
  ),
  client_keys: boolean().describe(
    'A creation whose `Idempotency-Key` this client has used before refers to the same upload: ' +
      'it is resumed, or its response is repeated. Only for APIs whose clients use a new key for each upload.',
  ),
  park_on: z
    .array(integer({ min: 400, max: 599 }))
    .describe(
      'Statuses with which the origin asks for other credentials, without having done anything: the upload is kept for a client that ' +
        'sends them. Some origins use 403, 419, 440 or 498 for this.',
    ),
  credentials: z
    .array(text(headerName))
    .nullable()
    .describe(
      'Header fields with which clients authenticate: the origin gets those of the request that completes an upload instead of the ' +
        'creation’s, and a parked upload (`park_on`) is delivered when a request contains one of them. A form token ' +
        '(`X-CSRF-Token`) or an `X-Api-Key` can be listed too. `null`: `[Authorization, Cookie]`.',
    ),
  concurrency: integer({ min: 1, max: 100_000 }).describe(
    'Maximum number of concurrent requests to one origin; further ones wait.',
  ),
};

/** `delivery` of a route, which replaces single settings. */
export const routeDelivery = z
  .strictObject({
    ...ungroupedSettings,
    eager: z
      .strictObject(eagerSettings)
      .partial()
      .describe('Replaces single settings of the top-level `delivery.eager`.'),
    breaker: z
      .strictObject(breakerSettings)
      .partial()
      .describe('Replaces single settings of the top-level `delivery.breaker`.'),
    retry: z
      .strictObject(retrySettings)
      .partial()
      .describe('Replaces single settings of the top-level `delivery.retry`.'),
  })
  .partial()
  .optional()
  .describe('Replaces single settings of the top-level `delivery`.');

/** `delivery` at the top level. */
export const delivery = z
  .strictObject({
    ...withDefaults(ungroupedSettings, {
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
      .describe('Details of eager delivery, with `mode: eager`.'),
    breaker: z
      .strictObject(withDefaults(breakerSettings, { failures: 5, pause: '10s' }))
      .prefault({})
      .describe('When requests to a failing origin are paused.'),
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
  .describe('How a complete upload is delivered to the origin.');

/** Fields of the connection or of body framing, and fields that the proxy sets: the auth service cannot set them. */
const NOT_COPIED =
  /^(?:connection|content-length|date|expect|forwarded|host|idempotency-key|keep-alive|proxy-connection|te|trailer|transfer-encoding|tus-.*|upgrade|upload-.*|via|x-forwarded-(?:for|host|proto))$/i;

const copiedHeader = text({
  pattern: new RegExp(`^(?!${NOT_COPIED.source.slice(1)})${headerName.pattern.source.slice(1)}`, 'i'),
  allowed:
    'the name of a header such as Remote-User that does not belong to the connection, frame the body or come from the proxy itself',
});

const forwardAuth = z.strictObject({
  url: endpoint().describe(
    'Receives a GET with the headers of the request, and its method and target in `X-Forwarded-Method` and `X-Forwarded-Uri`.',
  ),
  timeout: duration({ minMs: 1 })
    .prefault('5s')
    .describe('Without a response in this time the request is refused with 503.'),
  copy_headers: z
    .array(copiedHeader)
    .prefault([])
    .describe(
      'Headers copied from its response to the request to the origin. The origin ' +
        'never gets these headers, in any spelling, from a client.',
    ),
  principal_header: text(headerName)
    .prefault('Remote-User')
    .describe(
      'Header of its response that names the principal, for `bind_to: principal`. Clients cannot set it either.',
    ),
});

/** A URL alone is the group with its defaults. */
const urlAlone = endpoint().transform((url) => forwardAuth.parse({ url }));

/** `authorize`, without defaults. */
const authorizeSettings = {
  forward_auth: z
    .union([urlAlone, forwardAuth])
    .nullable()
    .describe(
      'Service that is asked before any of the body is accepted: 2xx admits the request, any other response is passed to the ' +
        'client. A URL, or a group as below. `null`: none.',
    ),
  scope: oneOf(['all', 'uploads']).describe(
    'Which requests `forward_auth` checks. `all`: every request, upload or not. `uploads`: only upload creations; ' +
      'everything else reaches the origin unchecked, including ordinary request bodies.',
  ),
  preflight: boolean().describe(
    'Asks the origin first, with the headers of the creation and `Expect: 100-continue`; an early 4xx refuses the upload.',
  ),
  recheck: boolean().describe(
    'Asks `forward_auth` again before delivery, because access may have been revoked during the upload.',
  ),
};

const BOUND_TO_PRINCIPAL = oneOf(['principal'], 'principal, or a list of header names such as [Authorization]');

const bindTo = z
  .union([BOUND_TO_PRINCIPAL, z.array(text(headerName))])
  .describe(
    'Binds an upload to its creator: to the values of these headers, or to the `principal` that ' +
      '`authorize.forward_auth` names. Others get 404, even with the URL of the upload. Empty: anyone who knows the URL may write.',
  );

/** `authorize` and `bind_to` at the top level. */
export const access = {
  authorize: z
    .strictObject(
      withDefaults(authorizeSettings, { forward_auth: null, scope: 'all', preflight: false, recheck: false }),
    )
    .prefault({})
    .describe('The checks that admit or refuse a request.'),
  bind_to: bindTo.prefault([]),
};

/** `authorize` and `bind_to` of a route. */
export const routeAccess = {
  authorize: z
    .strictObject(authorizeSettings)
    .partial()
    .optional()
    .describe('Replaces single settings of the top-level `authorize`.'),
  bind_to: bindTo.optional(),
};
