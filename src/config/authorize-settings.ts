import * as z from 'zod';
import { withDefaults } from './defaults.js';
import { endpoint, headerName } from './request-scalars.js';
import { boolean, duration, oneOf, text } from './scalars.js';

/** Fields that belong to a connection, frame a body or are ours to say: no answer of an authority can say them to the origin. */
const NOT_TO_COPY =
  /^(?:connection|content-length|date|expect|forwarded|host|idempotency-key|keep-alive|proxy-connection|te|trailer|transfer-encoding|tus-.*|upgrade|upload-.*|via|x-forwarded-(?:for|host|proto))$/i;

const copiedHeader = text({
  form: new RegExp(`^(?!${NOT_TO_COPY.source.slice(1)})${headerName.form.source.slice(1)}`, 'i'),
  allowed:
    'the name of a header such as Remote-User that neither belongs to the connection, frames the body nor is ours to say',
});

const forwardAuth = z.strictObject({
  url: endpoint().describe(
    'Gets a GET with the request’s headers; its method and target are in `X-Forwarded-Method` and `X-Forwarded-Uri`.',
  ),
  timeout: duration({ leastMs: 1 }).prefault('5s').describe('No answer within this time refuses the request with 503.'),
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
const settings = {
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

const BOUND = oneOf(['principal'], 'principal, or a list of header names such as [Authorization]');

const bindTo = z
  .union([BOUND, z.array(text(headerName))])
  .describe(
    'Ties an upload to who created it: to the values of these headers, or to the `principal` that ' +
      '`authorize.forward_auth` names. Others get 404, even with the upload’s URL. Empty: the URL is the right to write.',
  );

/** `authorize` and `bind_to` at the top. */
export const access = {
  authorize: z
    .strictObject(withDefaults(settings, { forward_auth: null, scope: 'all', preflight: false, recheck: false }))
    .prefault({})
    .describe('Who is asked whether a request may come in.'),
  bind_to: bindTo.prefault([]),
};

/** The same for routes, which replace single settings. */
export const routeAccess = {
  authorize: z.strictObject(settings).partial().optional().describe('Replaces single settings of the top `authorize`.'),
  bind_to: bindTo.optional(),
};
